"""Denoisers: ladders of noise levels, for Gaussians whose score is known and for flows."""

import math
from itertools import pairwise

import pytest
import torch
from rich.progress import track

from tarflow import (
    AutoDenoiser,
    ConfigurationError,
    ContextError,
    ExampleSeeds,
    GaussianNoise,
    LogNormalLevels,
    NonFiniteError,
    NoNoise,
    OneStep,
    ProbabilityFlow,
    StochasticDenoising,
    UniformLevels,
    denoise,
)
from tarflow.sampling.chunks import ChunkSize

from .memory import limit_memory
from .models import tiny_flow

LADDERS = [ProbabilityFlow(5), StochasticDenoising(5)]
EACH_LADDER = pytest.mark.parametrize("denoiser", LADDERS, ids=lambda each: type(each).__name__)
LABEL = torch.tensor([0, 1, 2, -1])


@pytest.fixture
def flow():
    """A flow of many noise levels, in float64."""
    return tiny_flow(num_classes=3, noise=UniformLevels(0.05, 0.5)).eval().double()


@pytest.fixture
def x() -> torch.Tensor:
    """Images with noise."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 4, 4, generator=generator, dtype=torch.float64)


# --- A Gaussian -----------------------------------------------------------------------------

VARIANCE = 0.25


def gaussian_mean(x, level):
    """The mean of clean data of variance v and mean 0, given data with noise of variance t^2."""
    variance = level.square()[:, None]
    return x * VARIANCE / (VARIANCE + variance)


def test_the_ladder_lands_where_the_equation_of_the_flow_does():
    # dx/dt = (x - D) / t = x t / (v + t^2), so that x / sqrt(v + t^2) stays what it is.
    x, level = torch.randn(6, 3, dtype=torch.float64), torch.full((6,), 0.5, dtype=torch.float64)
    expected = x * math.sqrt(VARIANCE / (VARIANCE + 0.5**2))
    errors = []
    for steps in (50, 100, 200):
        found = ProbabilityFlow(steps, low=0.001)(gaussian_mean, x, level)
        errors.append((found - expected).abs().max() / expected.abs().max())
    assert errors[0] < 0.01
    assert errors[2] < errors[1] < errors[0]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)  # Euler steps are of first order
    one = OneStep()(gaussian_mean, x, level)
    torch.testing.assert_close(one, x * VARIANCE / (VARIANCE + 0.25))


def test_the_ladder_is_the_loop_of_the_paper():
    x, level = torch.randn(6, 3, dtype=torch.float64), torch.full((6,), 0.5, dtype=torch.float64)
    levels = [*torch.linspace(0.5, 0.1, 7, dtype=torch.float64), torch.tensor(0.0)]
    found = ProbabilityFlow(7, low=0.1)(gaussian_mean, x, level)
    for now, then in pairwise(levels):
        v = (x - gaussian_mean(x, now.expand(6))) / now
        x = x - v * (now - then)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-14)


def test_new_noise_keeps_the_distribution_of_the_flow():
    generator = torch.Generator().manual_seed(0)
    clean = math.sqrt(VARIANCE) * torch.randn(40_000, 1, generator=generator)
    x = clean + 0.5 * torch.randn(40_000, 1, generator=generator)
    denoiser, level = StochasticDenoising(100, low=0.001), torch.full((40_000,), 0.5)
    found = denoiser(gaussian_mean, x, level, generator)
    assert found.std() == pytest.approx(math.sqrt(VARIANCE), rel=0.02)
    other = denoiser(gaussian_mean, x, level, generator)
    assert (found - other).std() > 0.1


def test_every_example_starts_at_its_own_level():
    x, level = torch.randn(3, 2), torch.tensor([0.5, 0.2, 0.01])
    together = ProbabilityFlow(5, low=0.05)(gaussian_mean, x, level)
    for row in range(3):
        one = slice(row, row + 1)
        alone = ProbabilityFlow(5, low=0.05)(gaussian_mean, x[one], level[one])
        torch.testing.assert_close(together[one], alone)
    # Below the lowest level there is no way down but the last.
    torch.testing.assert_close(together[2:], gaussian_mean(x, level)[2:])


def test_one_step_of_a_ladder_is_one_step():
    x, level = torch.randn(3, 2), torch.full((3,), 0.5)
    for ladder in (ProbabilityFlow(1, low=0.1), StochasticDenoising(1, low=0.1)):
        assert torch.equal(ladder(gaussian_mean, x, level), gaussian_mean(x, level))


# --- Flows ----------------------------------------------------------------------------------


def test_the_default_is_what_fits_the_noise(flow, x):
    levels, one = flow.noise, GaussianNoise(0.1)
    assert AutoDenoiser(7).fitted(levels) == ProbabilityFlow(7, low=0.05)
    assert AutoDenoiser().fitted(one) == OneStep()
    expected = denoise(flow, x, LABEL, denoiser=ProbabilityFlow(30, low=0.05))
    assert torch.equal(denoise(flow, x, LABEL), expected)
    assert StochasticDenoising(3).fitted(levels).low == 0.05
    assert StochasticDenoising(3, low=0.2).fitted(levels).low == 0.2


@EACH_LADDER
def test_a_flow_goes_down_its_ladder(flow, x, denoiser):
    context = {"label": LABEL, "noise_level": 0.5}
    seeds = ExampleSeeds(0, range(4))
    found = denoise(flow, x, LABEL, denoiser=denoiser, source=seeds)
    assert torch.equal(denoise(flow, x, context, denoiser=denoiser, source=seeds), found)
    if denoiser == LADDERS[0]:
        for step, level in enumerate(torch.linspace(0.5, 0.05, 5, dtype=torch.float64)):
            score = flow.score(x, {"label": LABEL, "noise_level": level})
            then = 0.0 if step == 4 else level - 0.45 / 4
            x = x + level * score * (level - then)  # -v dt with v = -t * score
        torch.testing.assert_close(found, x, rtol=0, atol=1e-12)


def test_one_step_is_that_of_the_level_of_the_data(flow, x):
    level = torch.tensor([0.1, 0.2, 0.3, 0.5], dtype=torch.float64)
    context = {"label": LABEL, "noise_level": level}
    expected = x + level.square()[:, None, None, None] * flow.score(x, context)
    torch.testing.assert_close(denoise(flow, x, context, denoiser=OneStep()), expected)


@EACH_LADDER
@pytest.mark.parametrize("max_batch", [1, 3, 9])
def test_chunks_and_batches_change_nothing(flow, x, denoiser, max_batch):
    seeds = ExampleSeeds(5, range(4))
    whole = denoise(flow, x, LABEL, denoiser=denoiser, source=seeds)
    told = {"denoiser": denoiser, "max_batch": max_batch}
    torch.testing.assert_close(denoise(flow, x, LABEL, source=seeds, **told), whole)
    some = denoise(flow, x[2:], LABEL[2:], source=ExampleSeeds(5, range(2, 4)), **told)
    torch.testing.assert_close(some, whole[2:])


def test_memory_that_runs_out_halves_the_chunks_of_all_levels(flow, x):
    expected, chunks = denoise(flow, x, denoiser=LADDERS[0]), ChunkSize()
    memory = limit_memory(flow, 2)
    with pytest.warns(RuntimeWarning, match="going on with 2 examples at a time"):
        found = denoise(flow, x, denoiser=LADDERS[0], max_batch=chunks)
    torch.testing.assert_close(found, expected)
    assert memory.asked[0] == 4
    assert set(memory.asked[1:]) == {2}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_transformers_in_half_precision(flow, x, dtype):
    flow, x = flow.float(), x.float()
    expected = denoise(flow, x, LABEL, denoiser=LADDERS[0])
    found = denoise(flow, x, LABEL, denoiser=LADDERS[0], dtype=dtype)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.05


def test_a_bad_example_is_nan_and_the_others_go_on(flow, x):
    expected = denoise(flow, x, LABEL, denoiser=LADDERS[0])
    x[1] = torch.inf
    with pytest.warns(RuntimeWarning, match="1 of 4"):
        found = denoise(flow, x, LABEL, denoiser=LADDERS[0])
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2, 3]], expected[[0, 2, 3]])
    with pytest.raises(NonFiniteError, match="the data is not finite"):
        denoise(flow, x[1:2], denoiser=LADDERS[0])


def test_progress_shows_the_levels(flow, x):
    seen = []

    def progress(steps):
        for step in track(steps, disable=True):
            seen.append(step)
            yield step

    denoise(flow, x, denoiser=LADDERS[0], progress=progress)
    assert seen == list(range(5))


@EACH_LADDER
@pytest.mark.parametrize("noise", [GaussianNoise(0.1), NoNoise(), None])
def test_ladders_are_for_many_levels(x, denoiser, noise):
    with pytest.raises(ConfigurationError, match=r"many noise levels, but .* OneStep\(\)"):
        denoise(tiny_flow(noise=noise).double(), x, noise_std=0.1, denoiser=denoiser)


def test_wrong_arguments_are_refused(flow, x):
    with pytest.raises(ConfigurationError, match="knows many noise levels; pass that of x in its"):
        denoise(flow, x, noise_std=0.1)
    with pytest.raises(ContextError, match="above 0"):
        denoise(flow, x, {"noise_level": 0.0})
    with pytest.raises(ConfigurationError, match="denoising steps 0 must be at least 1"):
        AutoDenoiser(0)
    for low in (0.0, math.inf):
        with pytest.raises(ConfigurationError, match="finite noise level above 0"):
            ProbabilityFlow(5, low=low)


def test_a_flow_of_other_levels_denoises_too(x):
    flow = tiny_flow(noise=LogNormalLevels(0.02, 0.3)).double()
    assert denoise(flow, x, denoiser=LADDERS[0]).isfinite().all()
