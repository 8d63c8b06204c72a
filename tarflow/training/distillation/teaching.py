"""What a teacher says: noisy data as it knows it, and the mean of clean data at its levels."""

from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.flows.conditioning import null_context
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise
from tarflow.flows.noise_levels import NoiseLevels
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource
from tarflow.training.distillation.clean import Clean, beside
from tarflow.training.distillation.guidance_weights import guided


def sampled_noise(teacher: Flow, noise_level: float | None = None) -> Noise:
    """The noise at which a teacher is sampled.

    Args:
        noise_level: One of the levels of a teacher of many; by default the highest, at which
            samples are drawn.

    Raises:
        ConfigurationError: The teacher does not know the level.
    """
    noise = teacher.noise
    assert noise is not None
    if isinstance(noise, NoiseLevels):
        return noise.at(noise.high if noise_level is None else noise_level)
    if noise_level is not None:
        raise ConfigurationError(
            f"noise_level {noise_level}: this teacher was trained with {noise}, not with many"
        )
    return noise


def noisy(
    teacher: Flow, clean: Clean, noise: Noise, source: RandomSource
) -> tuple[Examples, Context]:
    """Clean data with noise, and what the teacher's density of that is conditioned on."""
    x, told = noise.drawn(clean.x, source)
    return x, teacher.known(clean.context).updated(**told.parts)


def levels(teacher: Flow, x: Tensor, context: Context) -> PerExample:
    """The standard deviation of the noise in each example."""
    told = context.get("noise_level")
    if told is None:
        return x.new_full((len(x),), teacher.read_noise_std(None))
    return told.to(x.dtype)


def clean_mean(
    teacher: Flow,
    x: Examples,
    context: Context,
    *,
    weight: PerExample | None = None,
    largest: float = float("inf"),
    differentiable: bool = False,
) -> Examples:
    r"""The teacher's mean of clean data: $x + t^2 s$ with its score s at the noise level t.

    Args:
        teacher: The flow.
        x: Noisy data.
        context: What it is conditioned on; with its noise level, where there are many.
        weight: Weight of guidance, $(1 + w) s_c - w s_n$; None computes no null score.
        largest: The largest entry of a score; others are clamped.
        differentiable: Whether gradients go through the score: second derivatives of the density.
    """
    score = teacher.score(x, context, create_graph=differentiable)
    if weight is not None:
        null = context.updated(**null_context(teacher.conditioners, x, context).parts)
        score = guided(score, teacher.score(x, null, create_graph=differentiable), weight)
    variance = beside(levels(teacher, x, context).square(), x)
    return x + variance * score.clamp(-largest, largest)
