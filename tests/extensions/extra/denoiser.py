"""A denoiser that stops on the way."""

from dataclasses import dataclass

from torch import Tensor

from tarflow import Denoiser
from tarflow.sampling.denoiser import Mean, Progress


@dataclass(frozen=True)
class Halfway(Denoiser):
    """Takes away a share of the noise."""

    share: float = 0.5

    def __call__(
        self, mean: Mean, x: Tensor, level: Tensor, source=None, progress: Progress = iter
    ) -> Tensor:
        return x + self.share * (mean(x, level) - x)
