"""What a flow says of samples, and the likeliest of several."""

import pytest
import torch

from tarflow import (
    ConfigurationError,
    ContextError,
    ExampleSeeds,
    GaussianNoise,
    InverseStudent,
    ShortcutStudent,
    UniformLevels,
    UnitScale,
    VelocityStudent,
    best_of,
    judge,
    placed,
)

from ..models import tiny_flow, tiny_student

LABELS = torch.tensor([0, -1, 2, 1])
SEEDS = ExampleSeeds(5, range(4))

FLOWS = {
    "plain": {},
    "unequal patches": {"patch_size": (2, 1, 2)},
    "learned variance": {"scale": UnitScale()},
    "noise levels": {"noise": UniformLevels()},
}


@pytest.fixture(params=FLOWS)
def flow(request):
    flow = tiny_flow(num_classes=3, **FLOWS[request.param]).eval().double()
    if hasattr(flow.base, "variance"):
        flow.base.variance.copy_(torch.rand(flow.base.shape) + 0.5)
    return flow


@pytest.fixture
def plain():
    return tiny_flow(num_classes=3, noise=GaussianNoise(0.1)).eval()


def context_of(flow, label=LABELS):
    high = flow.noise.high if flow.noise else 0.0
    levels = {"noise_level": torch.full((4,), high, dtype=torch.float64)}
    return {"label": label} | (levels if flow.noise else {})


@torch.no_grad()
def test_an_exact_inverse_has_no_residual(flow):
    z = flow.base.sample(4, SEEDS)
    x = flow.inverse(z, LABELS)
    found = judge(flow, placed(flow, z), x, LABELS)
    assert found.log_prob.shape == found.residual.shape == (4,)
    assert found.residual.max() < 1e-12
    assert torch.equal(found.log_prob, flow.log_prob(x, context_of(flow)))


@torch.no_grad()
def test_the_residual_is_the_largest_miss(flow):
    z = flow.base.sample(4, SEEDS)
    x = flow.inverse(z, LABELS)
    asked = placed(flow, z)
    asked[1, 0, 0, 0] += 3
    asked[1, 1, 2, 2] -= 2
    asked[2, 0, 3, 1] -= 0.5
    found = judge(flow, asked, x, LABELS)
    expected = torch.tensor([0, 3, 0.5, 0], dtype=torch.float64)
    torch.testing.assert_close(found.residual, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_noise_of_the_flow_is_added_where_asked_for(flow):
    noise = flow.noise or GaussianNoise(0.2)
    z, x = placed(flow, flow.base.sample(4, SEEDS)), torch.randn(4, 2, 4, 4).double()
    found = judge(flow, z, x, LABELS, noise=noise, source=SEEDS)
    noisy, told = noise.drawn(x, SEEDS)
    expected = flow.log_prob(noisy, {"label": LABELS, **told.parts})
    assert torch.equal(found.log_prob, expected)
    other = judge(flow, z[1:3], x[1:3], LABELS[1:3], noise=noise, source=ExampleSeeds(5, [1, 2]))
    torch.testing.assert_close(other.log_prob, expected[1:3], rtol=1e-12, atol=0)


@torch.no_grad()
def test_a_level_that_is_told_counts():
    flow = tiny_flow(num_classes=3, noise=UniformLevels()).eval()
    z, x = torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4)
    context = {"label": LABELS, "noise_level": torch.tensor([0.01, 0.1, 0.2, 0.3])}
    assert torch.equal(judge(flow, z, x, context).log_prob, flow.log_prob(x, context))


def test_one_that_is_not_finite_is_marked(plain):
    z, x = torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4)
    expected = judge(plain, z, x, LABELS)
    x[2, 0, 0, 0] = torch.nan
    found = judge(plain, z, x, LABELS)
    rest = [0, 1, 3]
    assert found.log_prob[2].isnan()
    assert found.residual[2].isnan()
    torch.testing.assert_close(found.log_prob[rest], expected.log_prob[rest])


@pytest.mark.parametrize("kind", [InverseStudent, VelocityStudent, ShortcutStudent])
@torch.no_grad()
def test_the_likeliest_of_several_is_kept(kind, plain):
    student = tiny_student(kind, plain).eval()
    told = {"weight": 0.5, "steps": 1, "source": SEEDS}
    draws = [best_of(student, plain, k, 4, LABELS, **told) for k in range(1, 7)]
    first = student.sample(4, LABELS, weight=0.5, steps=1, source=SEEDS)
    assert torch.equal(draws[0].x, first)
    assert not draws[0].index.any()
    log_probs = torch.stack([draw.judgement.log_prob for draw in draws])
    assert (log_probs.diff(dim=0) >= 0).all()
    assert (log_probs[-1] > log_probs[0]).any()
    for number, draw in enumerate(draws):
        assert (draw.index <= number).all()
        assert torch.equal(student.generate(draw.z, LABELS, weight=0.5, steps=1), draw.x)
        again = judge(plain, draw.z, draw.x, LABELS)
        torch.testing.assert_close(draw.judgement.log_prob, again.log_prob)
        torch.testing.assert_close(draw.judgement.residual, again.residual)
        settled = draws[-1].index <= number
        assert torch.equal(draw.x[settled], draws[-1].x[settled])


@pytest.mark.parametrize("count", [1, 3])
def test_the_choice_depends_on_seed_and_index_alone(plain, count):
    student = tiny_student(InverseStudent, plain).eval()
    whole = best_of(student, plain, count, 4, LABELS, source=SEEDS)
    part = best_of(student, plain, count, 2, LABELS[1:3], source=ExampleSeeds(5, range(1, 3)))
    torch.testing.assert_close(part.x, whole.x[1:3], rtol=0, atol=1e-6)
    assert torch.equal(part.index, whole.index[1:3])


def test_samples_without_a_density_are_the_last_choice(plain):
    class Broken(InverseStudent):
        """Its first draw has a sample that is not finite, and its second another."""

        def solve(self, z, context, weight, steps):
            x = super().solve(z, context, weight, steps)
            x[self.draw] = torch.nan
            self.draw += 1
            return x

    student = tiny_student(Broken, plain).eval()
    student.draw = 0
    found = best_of(student, plain, 2, 4, LABELS, source=SEEDS)
    assert found.x.isfinite().all()
    assert found.judgement.log_prob.isfinite().all()
    assert found.index[:2].tolist() == [1, 0]


def test_what_does_not_fit_is_refused(plain):
    student = tiny_student(InverseStudent, plain)
    with pytest.raises(ConfigurationError, match="count 0 must be at least 1"):
        best_of(student, plain, 0, 4)
    other = tiny_flow((4, 6), num_classes=3)
    with pytest.raises(ConfigurationError, match=r"images of \(2, 4, 4\), but .* \(2, 4, 6\)"):
        best_of(student, other, 2, 4)
    x = torch.zeros(4, 2, 4, 4)
    with pytest.raises(ConfigurationError, match=r"z has shape \(4, 4, 8\), but the noise of"):
        judge(plain, torch.zeros(4, 4, 8), x)
    with pytest.raises(ContextError, match="labels go from 0 to 3"):
        judge(plain, x, x, torch.tensor([0, 1, 2, 3]))
