"""What a teacher says: noisy data as it knows it, and the mean of clean data at its levels."""

from dataclasses import dataclass


from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.flows.noise import GaussianNoise, Noise
from tarflow.flows.noise_levels import NoiseLevels
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource
from tarflow.training.distillation.guidance_weights import guided
from tarflow.training.distillation.student_objective import Clean


def noisy(
    teacher: Flow, clean: Clean, source: RandomSource, level: float | None = None
) -> tuple[Examples, Context]:
    """Clean data with the noise at which a teacher is sampled, and what it is conditioned on.

    Args:
        level: One of the levels of a teacher of many; by default the highest, at which samples
            are drawn.
    """
    noise = teacher.noise
    assert noise is not None
    if isinstance(noise, NoiseLevels):
        noise = noise.at(noise.high if level is None else level)
    elif level is not None:
        raise ConfigurationError(
            f"noise level {level}: this teacher was trained with {noise}, not with many levels"
        )
    x, told = noise.drawn(clean.x, source)
    return x, teacher.known(clean.context).updated(**told.parts)
