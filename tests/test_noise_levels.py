"""One flow for many noise levels: how levels are drawn, and densities given them."""

import math

import pytest
import torch

from tarflow import (
    ConfigurationError,
    Context,
    ContextError,
    ExampleSeeds,
    Flow,
    GaussianNoise,
    Jacobi,
    LabelConditioner,
    LinearGuidance,
    LogNormalLevels,
    NoNoise,
    Patchify,
    Pixels,
    StandardNormal,
    UniformLevels,
    UniformVarianceLevels,
    inpaint,
    interpolate,
)
from tarflow.editing import CrankNicolson, Hamiltonian
from tarflow.randomness import Share
from tarflow.sampling.calibration import calibrate

from .models import tiny_flow

KINDS = [UniformLevels(0.02, 0.3), UniformVarianceLevels(0.02, 0.3), LogNormalLevels(0.02, 0.3)]
EVERY_KIND = pytest.mark.parametrize("noise", KINDS, ids=lambda noise: type(noise).__name__)


@pytest.fixture
def flow():
    """A flow of four by four images with labels, at many noise levels."""
    return tiny_flow(num_classes=3, codec=Pixels(), noise=UniformLevels(0.02, 0.3)).eval()


@pytest.fixture
def x() -> torch.Tensor:
    """Images, of whatever noise."""
    return torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def levels_of(noise, count: int = 20_000) -> torch.Tensor:
    """Levels of many examples."""
    source = torch.Generator().manual_seed(0)
    return noise.drawn(torch.zeros(count, 1), source)[1]["noise_level"]


# --- How levels are drawn -------------------------------------------------------------------


@EVERY_KIND
def test_levels_lie_between_the_lowest_and_the_highest(noise):
    levels = levels_of(noise)
    low, high = torch.tensor([noise.low, noise.high])
    assert low <= levels.min() < 1.1 * low
    assert 0.97 * high < levels.max() <= high


def test_levels_have_their_distributions():
    u, v, n = map(levels_of, KINDS)
    assert u.mean() == pytest.approx((0.02 + 0.3) / 2, abs=0.003)
    assert u.std() == pytest.approx((0.3 - 0.02) / math.sqrt(12), rel=0.02)
    assert v.square().mean() == pytest.approx((0.02**2 + 0.3**2) / 2, rel=0.02)
    assert v.square().std() == pytest.approx((0.3**2 - 0.02**2) / math.sqrt(12), rel=0.02)
    normal = torch.distributions.Normal(-2.5, 1.0)
    first, last = (normal.cdf(torch.tensor(math.log(t))) for t in (0.02, 0.3))
    for share in (0.1, 0.5, 0.9):
        expected = normal.icdf(first + share * (last - first)).exp()
        assert n.quantile(share) == pytest.approx(float(expected), rel=0.03)
    gathered = ((n == n.min()) | (n == n.max())).float().mean()
    assert gathered < 0.001  # truncated, not clamped: clamping would gather 12 %


@EVERY_KIND
def test_noise_has_the_level_that_is_told(noise):
    x = torch.zeros(50, 4000)
    noisy, told = noise.drawn(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noisy.std(dim=1), told["noise_level"], rtol=0.05, atol=0)
    assert list(told) == ["noise_level"]


@EVERY_KIND
def test_levels_do_not_depend_on_the_batch_nor_on_the_dtype(noise):
    x = torch.zeros(4, 3, 2, 2)
    noisy, told = noise.drawn(x, ExampleSeeds(3, range(4)))
    some, part = noise.drawn(x[2:], ExampleSeeds(3, range(2, 4)))
    assert torch.equal(some, noisy[2:])
    assert torch.equal(part["noise_level"], told["noise_level"][2:])
    whole, levels = noise.drawn(x, Share(0, 0, 4))
    shared, some = noise.drawn(x[2:], Share(0, 2, 4))  # those of one of several processes
    assert torch.equal(shared, whole[2:])
    assert torch.equal(some["noise_level"], levels["noise_level"][2:])
    _, wide = noise.drawn(x.double(), ExampleSeeds(3, range(4)))
    assert wide["noise_level"].dtype == torch.float64
    torch.testing.assert_close(wide["noise_level"].float(), told["noise_level"])
    _, narrow = noise.drawn(x.bfloat16(), ExampleSeeds(3, range(4)))
    assert torch.equal(narrow["noise_level"], told["noise_level"])


def test_noise_at_one_of_the_levels_is_that_of_one_level_for_all(x):
    seeds = ExampleSeeds(0, range(4))
    noisy, told = KINDS[0].at(0.1).drawn(x, seeds)
    assert torch.equal(noisy, GaussianNoise(0.1)(x, seeds))
    assert told["noise_level"].eq(0.1).all()
    with pytest.raises(ConfigurationError, match=r"0\.5 is not one of .* from 0\.02 to 0\.3"):
        KINDS[0].at(0.5)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (-1.0, 1.0), (0.2, 0.2), (0.3, 0.1), (0.1, math.inf)],
)
def test_bounds_out_of_range_are_refused(low, high):
    with pytest.raises(ConfigurationError, match="0 < low < high"):
        UniformLevels(low, high)


def test_what_is_not_a_distribution_of_levels_is_refused():
    for options in ({"std": 0.0}, {"std": math.inf}, {"mean": math.nan}):
        with pytest.raises(ConfigurationError, match="finite ones, and a std above 0"):
            LogNormalLevels(**options)
    with pytest.raises(ConfigurationError, match=r"next to none .* near -2\.90"):
        LogNormalLevels(0.01, 0.3, mean=5.0)


# --- Densities given a level ----------------------------------------------------------------


def test_data_is_observed_with_its_level_and_what_the_flow_knows(flow):
    stored = torch.zeros(4, 2, 4, 4, dtype=torch.uint8)
    given = Context(torch.tensor([0, 1, 2, -1]), camera=torch.ones(4))
    x, context = flow.observe(stored, given, ExampleSeeds(0, range(4)))
    clean, told = flow.noise.drawn(flow.codec.encode(stored), ExampleSeeds(0, range(4)))
    assert torch.equal(x, clean)
    assert sorted(context) == ["label", "noise_level"]
    assert torch.equal(context["noise_level"], told["noise_level"])
    with pytest.raises(ConfigurationError, match=r"flow\.observe"):
        flow.noisy(stored)


def test_a_flow_of_one_level_observes_what_noisy_makes():
    flow = tiny_flow(num_classes=3, codec=Pixels(), noise=GaussianNoise(0.1))
    stored, seeds = torch.zeros(4, 2, 4, 4, dtype=torch.uint8), ExampleSeeds(0, range(4))
    x, context = flow.observe(stored, torch.tensor([0, 1, 2, -1]), seeds)
    assert torch.equal(x, flow.noisy(stored, seeds))
    assert list(context) == ["label"]


def test_the_density_depends_on_the_level(flow, x):
    low, high = (flow.log_prob(x, {"noise_level": level}) for level in (0.02, 0.3))
    assert (low != high).all()
    both = {"noise_level": torch.tensor([0.02, 0.3, 0.02, 0.3])}
    mixed = flow.log_prob(x, both)
    torch.testing.assert_close(mixed, torch.stack([low[0], high[1], low[2], high[3]]))


@pytest.mark.parametrize("level", [0.02, 0.1, 1.0])
def test_the_score_at_a_level_is_that_of_finite_differences(flow, x, level):
    flow, x, step = flow.double(), x.double(), 1e-5
    context = {"label": torch.tensor([0, 1, 2, -1]), "noise_level": level}
    score = flow.score(x, context)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    up, down = (flow.log_prob(x + sign * step * direction, context) for sign in (1, -1))
    slope = (score * direction).flatten(1).sum(dim=1)
    torch.testing.assert_close(slope, (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda flow, x: flow(x),
        lambda flow, x: flow.log_prob(x, torch.zeros(4).long()),
        lambda flow, x: flow.score(x),
        lambda flow, x: flow.stop_gradient_inverse(x),
    ],
    ids=["forward", "log_prob", "score", "stop_gradient_inverse"],
)
def test_there_is_no_density_at_no_level(flow, x, ask):
    with pytest.raises(ContextError, match=r"none is given: pass .*noise_level"):
        ask(flow, x)


def test_samples_are_drawn_at_the_highest_level_unless_one_is_given(flow):
    label, seeds = torch.tensor([0, 1, 2, -1]), ExampleSeeds(0, range(4))
    told = {"label": label, "noise_level": 0.3}
    x = flow.sample(4, label, source=seeds)
    assert torch.equal(x, flow.sample(4, told, source=seeds))
    assert not torch.equal(x, flow.sample(4, {**told, "noise_level": 0.1}, source=seeds))
    z = flow.base.sample(4, seeds)
    assert torch.equal(flow.inverse(z, label), x)
    assert torch.equal(flow.decode(z, label).x, x)
    torch.testing.assert_close(flow(x, told)[0], z, rtol=0, atol=1e-4)
    drawn, log_prob = flow.sample_and_log_prob(4, label, source=seeds)
    assert torch.equal(drawn, x)
    torch.testing.assert_close(log_prob, flow.log_prob(x, told))
    guided = flow.sample_and_log_prob(4, label, source=seeds, guidance=LinearGuidance(1.0))
    torch.testing.assert_close(guided[1], flow.log_prob(guided[0], told))


def test_guidance_without_a_label_changes_nothing_at_any_level(flow):
    with pytest.raises(ContextError, match="null prediction that differs"):
        flow.sample(2, {"noise_level": 0.1}, guidance=LinearGuidance(1.0))


def test_a_flow_is_saved_with_its_levels(flow, x, tmp_path):
    flow.save_pretrained(tmp_path)
    again = Flow.from_pretrained(tmp_path)
    assert again.noise == flow.noise
    context = {"noise_level": 0.1}
    assert torch.equal(again.log_prob(x, context), flow.log_prob(x, context))


def test_noise_that_no_transform_reads_is_refused():
    transforms, base = [Patchify((4, 4), 2)], StandardNormal(4, 8)
    with pytest.raises(ConfigurationError, match="give the transforms a NoiseLevelConditioner"):
        Flow(transforms, base, noise=UniformLevels())
    Flow(transforms, base, noise=NoNoise())


def test_a_conditioner_of_levels_is_there_once():
    flow = tiny_flow(conditioners=UniformLevels().conditioners, noise=UniformLevels())
    assert [c.part for c in flow.conditioners] == ["noise_level", "temperature"]
    own = tiny_flow(num_classes=2, conditioners=(LabelConditioner(2),))
    assert [c.part for c in own.conditioners] == ["label", "temperature"]


# --- What stands on densities ---------------------------------------------------------------


@pytest.mark.parametrize("guidance", [None, LinearGuidance(1.0)])
def test_fast_decoders_find_the_same_samples(flow, guidance):
    told = {
        "label": torch.tensor([0, 1, 2, 0]),
        "noise_level": torch.tensor([0.3, 0.1, 0.3, 0.02]),
    }
    options = {"source": ExampleSeeds(0, range(4)), "guidance": guidance}
    expected = flow.sample(4, told, **options)
    windows = flow.sample(4, told, decoder=Jacobi(2, 1e-5), **options)
    torch.testing.assert_close(windows, expected, rtol=0, atol=1e-4)
    half, report = flow.sample_with_report(4, told, dtype=torch.bfloat16, **options)
    torch.testing.assert_close(half, expected, rtol=0, atol=0.05)
    assert report.certified.all()


def test_editing_happens_at_a_level(flow, x):
    label = torch.tensor([0, 1, 2, 0])
    known, mask = {"label": label, "noise_level": 0.1}, torch.arange(4) < 2
    path = interpolate(flow, x, x.flip(0), 3, known)
    torch.testing.assert_close(path[:, 0], x, rtol=0, atol=1e-4)
    sampler = Hamiltonian(burn_in=2, num_steps=2, num_leapfrog=2)
    completed = inpaint(flow, x, mask, known, noise_std=0.1, sampler=sampler)
    assert torch.equal(completed.x[..., :2], x[..., :2])
    with pytest.raises(ContextError, match="none is given"):
        interpolate(flow, x, x.flip(0), 3, label)
    for kernel in (sampler, CrankNicolson(burn_in=2, num_steps=2)):
        with pytest.raises(ContextError, match="none is given"):
            inpaint(flow, x, mask, label, noise_std=0.1, sampler=kernel)
    with pytest.raises(ConfigurationError, match="pass noise_std"):
        inpaint(flow, x, mask, known)


def test_calibration_is_at_the_highest_level(flow):
    plan = calibrate(flow, 2, torch.tensor([0, 1]), windows=[2], repetitions=1)
    assert len(plan.decoder.decoders) == 3
