"""Which guidance weights a student learns."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tarflow.arguments import check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.shapes import PerExample
from tarflow.randomness import RandomSource, uniform
from tarflow.registry import Part


@dataclass(frozen=True)
class GuidanceWeights(Part, ABC):
    """Draws the guidance weight of each example: 0 is none."""

    @property
    @abstractmethod
    def highest(self) -> float:
        """The largest weight that is drawn; with 0, nothing is computed for guidance."""

    @abstractmethod
    def __call__(self, like: Tensor, source: RandomSource) -> PerExample:
        """A weight for each example of a batch, in its dtype and on its device."""


@dataclass(frozen=True)
class Unguided(GuidanceWeights):
    """No guidance: all weights are 0."""

    @property
    def highest(self) -> float:
        return 0.0

    def __call__(self, like: Tensor, source: RandomSource) -> PerExample:
        return like.new_zeros(len(like))


@dataclass(frozen=True)
class UniformWeights(GuidanceWeights):
    """Weights between 0 and the highest, all as likely, and a share of exactly 0.

    Attributes:
        high: The highest weight.
        unguided: Share of the examples whose weight is 0.
    """

    high: float = 2.0
    unguided: float = 0.25

    def __post_init__(self):
        keep(self, high=float(check_real("high", self.high)))
        keep(self, unguided=float(check_real("unguided", self.unguided)))
        if not 0 < self.high < math.inf:
            raise ConfigurationError(
                f"high {self.high} of guidance weights must be positive and finite: Unguided() has"
                " none"
            )
        if not 0 <= self.unguided < 1:
            raise ConfigurationError(f"unguided {self.unguided} must be in [0, 1): it is a share")

    @property
    def highest(self) -> float:
        return self.high

    def __call__(self, like: Tensor, source: RandomSource) -> PerExample:
        wide = torch.promote_types(like.dtype, torch.float32)
        draw = uniform((len(like),), source, wide, like.device, "weight")
        share = (draw - self.unguided) / (1 - self.unguided)  # negative where there is none
        return (self.high * share.clamp(min=0)).to(like.dtype)


def guided(conditional: Tensor, null: Tensor, weight: PerExample) -> Tensor:
    r"""$(1 + w) a_c - w a_n$ with a weight for each example; exactly $a_c$ where it is 0."""
    beside = weight.to(conditional.dtype).view(-1, *(1,) * (conditional.ndim - 1))
    return conditional + beside * (conditional - null)
