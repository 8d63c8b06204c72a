"""Gaussian noise of many levels, which the density is conditioned on."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from tarflow.arguments import check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.conditioning import Conditioner, NoiseLevelConditioner
from tarflow.flows.context import Context
from tarflow.flows.noise import Noise
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource, normal, uniform

LEAST_SHARE = 1e-4
"""Share of a distribution of levels that has to lie within what it is truncated to."""


@dataclass(frozen=True)
class NoiseLevels(Noise):
    r"""$x + t \epsilon$ with a level t drawn for each example (iTARFlow, arXiv 2604.20041).

    One flow learns the density at every level between two, given the level. Samples are drawn at
    the highest one, from which `denoise` goes down.

    Attributes:
        low: The lowest level, in the units of x.
        high: The highest level.
    """

    low: float = 0.01
    high: float = 0.3
    conditioners: ClassVar[tuple[Conditioner, ...]] = (NoiseLevelConditioner(),)
    removable: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("low", "high"):
            keep(self, **{name: float(check_real(f"noise level {name}", getattr(self, name)))})
        if not 0 < self.low < self.high < math.inf:
            raise ConfigurationError(
                f"noise levels from {self.low} to {self.high} are out of range: 0 < low < high"
            )

    @abstractmethod
    def quantile(self, share: PerExample) -> PerExample:
        """The level below which a share of all levels lies: `low` at 0, `high` at 1."""

    def __call__(self, x: Examples, source: RandomSource = None) -> Examples:
        raise ConfigurationError(
            f"{self} adds noise of a level of its own to each example, without which its density"
            " is not known: call flow.observe(...), which returns the context as well"
        )

    def drawn(self, x: Examples, source: RandomSource = None) -> tuple[Examples, Context]:
        wide = torch.promote_types(x.dtype, torch.float32)
        share = uniform(x.shape[:1], source, wide, x.device, "noise_level")
        return _noisy(x, self.quantile(share).clamp(self.low, self.high), source)

    def sampled(self, examples: Tensor) -> Context:
        wide = torch.promote_types(examples.dtype, torch.float32)
        return Context(noise_level=examples.new_full(examples.shape[:1], self.high, dtype=wide))

    def at(self, level: float) -> "KnownLevel":
        """Noise of one of the levels.

        Raises:
            ConfigurationError: It is not one of them.
        """
        level = float(check_real("noise level", level))
        if not self.low <= level <= self.high:
            raise ConfigurationError(
                f"noise level {level} is not one of the flow's, which go from {self.low} to"
                f" {self.high}"
            )
        return KnownLevel(level)

    @property
    def words(self) -> str:
        return f"levels {self.low} to {self.high}"


@dataclass(frozen=True)
class UniformLevels(NoiseLevels):
    """Levels between the lowest and the highest, all as likely."""

    def quantile(self, share: PerExample) -> PerExample:
        return self.low + (self.high - self.low) * share


@dataclass(frozen=True)
class UniformVarianceLevels(NoiseLevels):
    """Levels whose variance, their square, is uniform: most are near the highest."""

    def quantile(self, share: PerExample) -> PerExample:
        return (self.low**2 + (self.high**2 - self.low**2) * share).sqrt()


@dataclass(frozen=True)
class LogNormalLevels(NoiseLevels):
    """Levels whose logarithm is normal, truncated to between the lowest and the highest.

    Within the bounds, the density is the normal one, divided by its share there: no level
    gathers what lies beyond a bound.

    Attributes:
        mean: Mean of the logarithm, before it is truncated.
        std: Standard deviation of the logarithm, before it is truncated.
    """

    mean: float = -2.5
    std: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        keep(self, mean=float(check_real("mean", self.mean)))
        keep(self, std=float(check_real("std", self.std)))
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ConfigurationError(
                f"mean {self.mean} and std {self.std} of the logarithm of noise levels: give"
                " finite ones, and a std above 0"
            )
        first, last = self._shares
        if last - first < LEAST_SHARE:
            raise ConfigurationError(
                f"next to none of the levels of mean {self.mean} and std {self.std} lie between"
                f" {self.low} and {self.high}: give a mean, of their logarithm, near"
                f" {(math.log(self.low) + math.log(self.high)) / 2:.2f}"
            )

    @property
    def _shares(self) -> tuple[float, float]:
        """Shares of the normal distribution that lie below the bounds."""
        normal_dist = NormalDist(self.mean, self.std)
        return normal_dist.cdf(math.log(self.low)), normal_dist.cdf(math.log(self.high))

    def quantile(self, share: PerExample) -> PerExample:
        first, last = self._shares
        standardized = torch.special.ndtri(first + (last - first) * share)
        return (self.mean + self.std * standardized).exp()


@dataclass(frozen=True)
class KnownLevel(Noise):
    """Noise of one of many levels, for a flow of all of them.

    Attributes:
        level: The standard deviation.
    """

    level: float
    conditioners: ClassVar[tuple[Conditioner, ...]] = (NoiseLevelConditioner(),)

    def __call__(self, x: Examples, source: RandomSource = None) -> Examples:
        return self.drawn(x, source)[0]

    def drawn(self, x: Examples, source: RandomSource = None) -> tuple[Examples, Context]:
        wide = torch.promote_types(x.dtype, torch.float32)
        return _noisy(x, x.new_full(x.shape[:1], self.level, dtype=wide), source)

    @property
    def words(self) -> str:
        return f"level {self.level}"


def _noisy(x: Examples, level: PerExample, source: RandomSource) -> tuple[Examples, Context]:
    """Noise of a level for each example, from the same draws as that of one level for all."""
    std = level.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))
    noise = normal(x.shape, source, x.dtype, x.device, "noise")
    return x + std * noise, Context(noise_level=level)
