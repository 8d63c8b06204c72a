"""Noise with heavier tails."""

from dataclasses import dataclass

from torch import Tensor

from tarflow import Noise
from tarflow.randomness import RandomSource, uniform


@dataclass(frozen=True)
class LaplaceNoise(Noise):
    """Adds noise of the density exp(-|x| / width) / (2 width)."""

    width: float = 0.05

    def __call__(self, x: Tensor, source: RandomSource = None) -> Tensor:
        u = uniform(x.shape, source, x.dtype, x.device, "noise") - 0.5
        return x - self.width * u.sign() * (1 - 2 * u.abs()).clamp(min=1e-12).log()
