"""At which times flow matching trains."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tarflow.arguments import check_instance, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.shapes import PerExample
from tarflow.randomness import RandomSource, normal, uniform
from tarflow.registry import Part


class TimeDraws(Part, ABC):
    """Draws the time of each example: 0 is that of data, 1 that of noise."""

    @abstractmethod
    def __call__(self, like: Tensor, source: RandomSource) -> PerExample:
        """A time for each example of a batch, in its dtype and on its device."""


@dataclass(frozen=True)
class UniformTimes(TimeDraws):
    """All times are as likely."""

    def __call__(self, like: Tensor, source: RandomSource) -> PerExample:
        return uniform((len(like),), source, like.dtype, like.device, "time")


@dataclass(frozen=True)
class PinnedTimes(TimeDraws):
    """A share of all times is exactly 1, at which every sample begins; others draw the rest.

    Samples in a single step ask for the velocity at that time alone, and those in a few steps
    depend on it most; a distribution without an atom there hardly ever trains it.

    Attributes:
        share: The share.
        others: Draws the other times.
    """

    share: float = 0.25
    others: TimeDraws = UniformTimes()

    def __post_init__(self):
        keep(self, share=float(check_real("share", self.share)))
        if not 0 <= self.share <= 1:
            raise ConfigurationError(f"share {self.share} of times must be in [0, 1]")
        check_instance("others", self.others, TimeDraws, "pass one, such as UniformTimes()")

    def __call__(self, like: Tensor, source: RandomSource) -> PerExample:
        draw = uniform((len(like),), source, torch.float32, like.device, "time/pinned")
        return self.others(like, source).masked_fill(draw < self.share, 1)


@dataclass(frozen=True)
class LogitNormalTimes(TimeDraws):
    r"""$t = \sigma(N(m, s^2))$ with the logistic function: most times are in the middle.

    Attributes:
        mean: m, below 0 for more times near the data (arXiv 2603.09014).
        std: s.
    """

    mean: float = -0.2
    std: float = 1.0

    def __post_init__(self):
        for name in ("mean", "std"):
            keep(self, **{name: float(check_real(name, getattr(self, name)))})
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ConfigurationError(
                f"mean {self.mean} and std {self.std} of times: give finite ones, a std above 0"
            )

    def __call__(self, like: Tensor, source: RandomSource) -> PerExample:
        draw = normal((len(like),), source, like.dtype, like.device, "time")
        return torch.sigmoid(self.mean + self.std * draw)
