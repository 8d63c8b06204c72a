"""Interpolation and inpainting against formulas."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tarflow import (
    Context,
    ContextError,
    DiagonalNormal,
    ExampleSeeds,
    Flow,
    GaussianNoise,
    Inverse,
    NoNoise,
    Reverse,
    StandardNormal,
    Transform,
)
from tarflow.editing import inpaint, interpolate
from tarflow.editing.markov_chains import CrankNicolson, Hamiltonian
from tarflow.randomness import ExampleStreams, normal

from .models import tiny_flow

LEFT = torch.arange(4) < 2
SHORT = {
    "pCN": CrankNicolson(burn_in=6, num_steps=6),
    "HMC": Hamiltonian(burn_in=4, num_steps=4, num_leapfrog=2),
}


@pytest.fixture(params=SHORT.values(), ids=SHORT.keys())
def sampler(request):
    """Chains too short for anything but their bookkeeping."""
    return request.param


def small_flow(**options) -> Flow:
    """A flow of two transforms of one layer."""
    return tiny_flow(num_transforms=2, num_layers=1, **options)


@pytest.fixture
def noisy() -> Flow:
    """A flow that knows the noise it was trained with, in float64."""
    return small_flow(num_classes=3, noise=GaussianNoise(std=0.3)).double()


# Interpolation


def test_both_ends_of_a_path_are_what_was_given(flow, x, y):
    path = interpolate(flow, x, x.flip(0), 5, y)
    assert path.shape == (4, 5, 2, 4, 4)
    torch.testing.assert_close(path[:, 0], x, rtol=0, atol=1e-12)
    torch.testing.assert_close(path[:, -1], x.flip(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("as_context", [False, True])
def test_noise_turns_evenly_and_its_length_changes_evenly(flow, x, y, as_context):
    context = Context(y, torch.tensor([1.0, 0.5, 2.0, 1.0])) if as_context else y
    path = interpolate(flow, x, x.roll(1, 0), 7, context)
    for step in range(6):
        here, there = (flow(path[:, i], context)[0].flatten(1) for i in (step, step + 1))
        angle = torch.acos(torch.cosine_similarity(here, there))
        gained = there.norm(dim=1) - here.norm(dim=1)
        if not step:
            first_angle, first_gained = angle, gained
            assert (angle > 0.1).all()
        torch.testing.assert_close(angle, first_angle, rtol=0, atol=1e-9)
        torch.testing.assert_close(gained, first_gained, rtol=0, atol=1e-9)


def test_typical_noise_stays_typical_where_a_straight_line_loses_it():
    flow = Flow([Reverse()], StandardNormal(64, 4))
    x0, x1 = torch.randn(2, 100, 64, 4).unbind()
    middle = interpolate(flow, x0, x1, 3)[:, 1]
    dims = flow.num_dims
    assert middle.flatten(1).norm(dim=1).mean() == pytest.approx(dims**0.5, rel=0.01)
    assert ((x0 + x1) / 2).flatten(1).norm(dim=1).mean() < 0.75 * dims**0.5


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.0, -0.5])
def test_parallel_noise_goes_straight(factor):
    flow, x = Flow([Reverse()], StandardNormal(3, 2)), torch.randn(4, 3, 2)
    path = interpolate(flow, x, factor * x, 3)
    expected = torch.stack([x, (1 + factor) / 2 * x, factor * x], dim=1)
    torch.testing.assert_close(path, expected)


def test_a_path_of_one_example_is_that_of_any_batch(flow, x, y):
    together = interpolate(flow, x, x.flip(0), 3, y)
    alone = [interpolate(flow, x[i, None], x.flip(0)[i, None], 3, y[i, None]) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-12)


def test_what_makes_no_path_is_refused(flow, x):
    with pytest.raises(ValueError, match=r"x0 has shape \(4, 2, 4, 4\) and x1 \(4, 2, 4, 3\)"):
        interpolate(flow, x, x[..., :3])
    with pytest.raises(ValueError, match="num_steps 1 must be at least 2"):
        interpolate(flow, x, x, 1)
    with pytest.raises(ContextError, match="4 examples"):
        interpolate(flow, x, x, 2, torch.tensor([0, 1]))


# Inpainting: a posterior in closed form

SHAPE, NUM_CHAINS, NOISE_STD = (3, 2), 4000, 0.3


class Triangular(Transform):
    """A fixed lower triangular map of all numbers of a sequence."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        lower = torch.randn(6, 6, generator=generator, dtype=torch.float64).tril(-1)
        self.register_buffer("matrix", lower + torch.diag(torch.linspace(0.7, 2.0, 6).double()))

    def forward(self, x, context):
        log_det = self.matrix.diagonal().log().sum()
        return (x.flatten(1) @ self.matrix.T).view_as(x), log_det.expand(len(x))

    def inverse(self, z, context, decoding):
        x = torch.linalg.solve_triangular(self.matrix, z.flatten(1).T, upper=False).T
        return Inverse(x.reshape(z.shape), -self.matrix.diagonal().log().sum().expand(len(z)))


def gaussian(base_type: type[StandardNormal]) -> tuple[Flow, Tensor]:
    """A flow that is a correlated Gaussian, and its covariance."""
    base = base_type(*SHAPE)
    if isinstance(base, DiagonalNormal):
        base.variance.copy_(torch.linspace(0.3, 2.0, 6).view(SHAPE))
    flow = Flow([Triangular()], base).double()
    variance = getattr(flow.base, "variance", torch.ones(SHAPE)).double()
    root = flow.transform[0].matrix.inverse() * variance.flatten().sqrt()
    return flow, root @ root.T


def conditional(covariance: Tensor, observed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a Gaussian given noisy values of some of its numbers."""
    inner = covariance[observed][:, observed] + NOISE_STD**2 * torch.eye(int(observed.sum()))
    gain = covariance[:, observed] @ inner.inverse()
    return gain @ values, covariance - gain @ covariance[observed]


@pytest.mark.parametrize("base_type", [StandardNormal, DiagonalNormal])
@pytest.mark.parametrize(
    "long",
    [
        CrankNicolson(burn_in=300, num_steps=300),
        Hamiltonian(burn_in=60, num_steps=60, num_leapfrog=6),
    ],
    ids=SHORT.keys(),
)
def test_chains_draw_from_the_posterior(long, base_type):
    flow, covariance = gaussian(base_type)
    x = torch.tensor([[0.8, -1.0], [0.0, 0.5], [0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    source = torch.Generator().manual_seed(1)
    result = inpaint(
        flow, x.expand(NUM_CHAINS, 3, 2), mask, noise_std=NOISE_STD, sampler=long, source=source
    )
    seen = mask.flatten()
    mean, posterior = conditional(covariance, seen, x[mask])
    hidden, mean_hidden = result.x.flatten(1)[:, ~seen], mean[~seen]
    # The chains are independent: the standard errors of these estimates are known.
    expected = posterior[~seen][:, ~seen]
    variance = expected.diagonal()
    error = (hidden.mean(dim=0) - mean_hidden) / (variance / NUM_CHAINS).sqrt()
    assert error.abs().max() < 4
    spread = (variance[:, None] * variance + expected**2) / NUM_CHAINS
    assert ((hidden.T.cov() - expected) / spread.sqrt()).abs().max() < 4
    squared = result.rms_deviation**2
    expected_square = (posterior.diagonal()[seen] + (mean[seen] - x[mask]) ** 2).mean()
    assert (squared.mean() - expected_square).abs() < 4 * squared.std() / NUM_CHAINS**0.5
    assert result.acceptance_rate.mean() == pytest.approx(long.target_acceptance, abs=0.1)


# Inpainting: what it reports and returns


def test_the_acceptance_rate_is_that_of_a_recount(noisy, x, y, sampler, monkeypatch):
    decoded, attempt = [], noisy.attempt
    monkeypatch.setattr(
        noisy, "attempt", lambda *a, **k: decoded.append(attempt(*a, **k)) or decoded[-1]
    )
    steps = replace(sampler, burn_in=0, num_steps=12, first_step_size=0.3)
    result = inpaint(noisy, x, LEFT, y, noise_std=0.5, sampler=steps, num_samples=12)
    states = torch.cat([decoded[0].x[:, None], result.samples], dim=1)[..., ~LEFT]
    moved = (states[:, 1:] != states[:, :-1]).flatten(2).any(dim=2)
    assert 0 < moved.double().mean() < 1
    torch.testing.assert_close(result.acceptance_rate, moved.double().mean(dim=1))
    assert (result.step_size == 0.3).all()


def test_observed_values_come_back_exactly_and_hidden_ones_are_not_read(noisy, x, y, sampler):
    mask = torch.rand(4, 1, 4, 4) < 0.5
    results = [
        inpaint(
            noisy,
            x.masked_fill(~mask, value),
            mask,
            y,
            sampler=sampler,
            num_samples=3,
            source=source,
        )
        for value in (0.0, float("nan"))
        for source in [torch.Generator().manual_seed(0)]
    ]
    assert results[0].samples.shape == (4, 3, 2, 4, 4)
    assert torch.equal(results[0].samples, results[1].samples)
    seen = mask.expand_as(x)
    assert torch.equal(results[0].x[seen], x[seen])
    assert (results[0].x[~seen] != 0).all()
    assert torch.equal(results[0].samples[:, -1], results[0].x)
    assert (results[0].rms_deviation > 0).all()


def test_a_wider_dtype_of_the_data_is_kept(x, sampler):
    result = inpaint(small_flow(), x, LEFT, noise_std=0.3, sampler=sampler)
    assert torch.equal(result.x[..., LEFT], x[..., LEFT])
    assert result.acceptance_rate.dtype == torch.float32


def test_a_chain_depends_on_its_seed_alone(noisy, x, y, sampler):
    def run(rows):
        source = ExampleSeeds(3, rows)
        return inpaint(noisy, x[rows], LEFT, y[rows], sampler=sampler, source=source)

    together = run([0, 1, 2, 3])
    for rows in ([0], [3, 1]):
        alone = run(rows)
        torch.testing.assert_close(alone.x, together.x[rows], rtol=0, atol=1e-9)
        assert torch.equal(alone.step_size, together.step_size[rows])
        assert torch.equal(alone.acceptance_rate, together.acceptance_rate[rows])


def test_streams_of_example_seeds_go_on():
    seeds = ExampleSeeds(0, [5, 2])
    streams = ExampleStreams.of(seeds)
    first, second = (normal((2, 3), streams, torch.float32, "cpu") for _ in range(2))
    assert torch.equal(first, normal((2, 3), seeds, torch.float32, "cpu"))
    assert not torch.equal(first, second)
    generator = torch.Generator()
    assert ExampleStreams.of(generator) is generator
    assert ExampleStreams.of(None) is None


def test_the_same_generator_draws_the_same(noisy, x, sampler):
    draws = [
        inpaint(noisy, x, LEFT, sampler=sampler, source=torch.Generator().manual_seed(seed)).x
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_with_everything_observed_the_result_is_the_data(noisy, x, sampler):
    assert torch.equal(inpaint(noisy, x, torch.tensor(True), sampler=sampler).x, x)


def test_with_nothing_observed_every_draw_of_the_prior_is_accepted(noisy, x):
    result = inpaint(noisy, x, torch.tensor(False), sampler=SHORT["pCN"])
    assert (result.acceptance_rate == 1).all()
    assert (result.step_size == 1).all()
    assert (result.rms_deviation == 0).all()
    assert (result.x != x).all()


def test_with_nothing_observed_hamiltonian_chains_draw_from_the_flow():
    flow, covariance = gaussian(StandardNormal)
    sampler = Hamiltonian(burn_in=20, num_steps=20, num_leapfrog=6)
    nothing = torch.tensor(False)
    x = inpaint(flow, torch.zeros(NUM_CHAINS, 3, 2), nothing, noise_std=1.0, sampler=sampler).x
    variance = covariance.diagonal()
    spread = (variance[:, None] * variance + covariance**2) / NUM_CHAINS
    assert ((x.flatten(1).T.cov() - covariance) / spread.sqrt()).abs().max() < 4


def test_a_proposal_that_is_not_finite_is_rejected(noisy, x):
    exploding = Hamiltonian(burn_in=0, num_steps=2, first_step_size=1e200)
    result = inpaint(noisy, x, LEFT, sampler=exploding)
    assert (result.acceptance_rate == 0).all()
    assert result.x.isfinite().all()


def test_progress_sees_every_step(noisy, x, sampler):
    seen = []
    inpaint(noisy, x, LEFT, sampler=sampler, progress=lambda steps: map(seen.append, steps))
    assert seen == list(range(sampler.burn_in + sampler.num_steps))


def test_inference_mode_changes_nothing_and_no_graph_is_built(noisy, x, y, sampler):
    outside = inpaint(noisy, x, LEFT, y, sampler=sampler, source=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        made_inside = (x.clone(), LEFT.clone(), y.clone())
        inside = inpaint(
            noisy, *made_inside, sampler=sampler, source=torch.Generator().manual_seed(0)
        )
    assert torch.equal(inside.x, outside.x)
    assert not outside.x.requires_grad
    assert all(parameter.grad is None for parameter in noisy.parameters())


# Inpainting: errors


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4), "torch.float32, not bool"),
        (
            torch.ones(3, dtype=torch.bool),
            r"shape \(3,\) does not broadcast to x of \(4, 2, 4, 4\)",
        ),
        (torch.ones(2, 4, 2, 4, 4, dtype=torch.bool), "does not broadcast"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(noisy, x, mask, message):
    with pytest.raises(ValueError, match=message):
        inpaint(noisy, x, mask)


@pytest.mark.parametrize("noise", [None, NoNoise()])
def test_inpainting_needs_a_standard_deviation(x, noise):
    with pytest.raises(ValueError, match="pass noise_std"):
        inpaint(small_flow(noise=noise), x, LEFT)


@pytest.mark.parametrize("noise_std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_standard_deviation_is_positive(noisy, x, noise_std):
    with pytest.raises(ValueError, match=r"noise.std .* must be (positive|finite)"):
        inpaint(noisy, x, LEFT, noise_std=noise_std)


def test_the_default_standard_deviation_is_that_of_the_flow(noisy, x, sampler):
    draws = [
        inpaint(noisy, x, LEFT, noise_std=std, sampler=sampler, source=ExampleSeeds(0, range(4))).x
        for std in (None, 0.3)
    ]
    assert torch.equal(*draws)


def test_data_that_is_not_the_flows_is_refused(noisy, x):
    with pytest.raises(
        ValueError, match=r"\(4, 2, 4, 5\), but this model takes \(batch, 2, 4, 4\)"
    ):
        inpaint(noisy, torch.randn(4, 2, 4, 5), torch.tensor(True))
    x[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="an observed value is not finite"):
        inpaint(noisy, x, LEFT)


def test_chains_that_keep_nothing_are_refused(noisy, x, sampler):
    for count in (0, sampler.num_steps + 1):
        with pytest.raises(ValueError, match=f"num_samples {count}"):
            inpaint(noisy, x, LEFT, sampler=sampler, num_samples=count)
    with pytest.raises(ValueError, match="burn_in -1"):
        type(sampler)(burn_in=-1)
    with pytest.raises(ValueError, match="num_steps 0"):
        type(sampler)(num_steps=0)
    with pytest.raises(ValueError, match="num_leapfrog 0"):
        Hamiltonian(num_leapfrog=0)
