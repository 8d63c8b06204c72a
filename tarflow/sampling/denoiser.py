"""Denoisers: ways from a sample with noise to one without."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.noise import Noise
from tarflow.flows.noise_levels import NoiseLevels
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import ExampleStreams, RandomSource, normal
from tarflow.registry import Part

Mean = Callable[[Examples, PerExample], Examples]
"""The mean of clean data given noisy data and its noise level, for each example."""

Progress = Callable[[range], Iterable[int]]
"""Wraps steps to show how far they are, like `rich.progress.track`."""


class Denoiser(Part, ABC):
    """Removes the noise of data by the mean of clean data given noisy data."""

    def fitted(self, noise: Noise | None) -> "Denoiser":
        """The denoiser for data with a noise, which is the flow's.

        Raises:
            ConfigurationError: It does not remove such noise.
        """
        return self

    @abstractmethod
    def __call__(
        self,
        mean: Mean,
        x: Examples,
        level: PerExample,
        source: RandomSource = None,
        progress: Progress = iter,
    ) -> Examples:
        """Remove the noise of data.

        Args:
            mean: The mean of clean data given noisy data.
            x: The data.
            level: Standard deviation of the noise in each example.
            source: Where the denoiser's own draws come from, if it makes any.
            progress: Shows how far the steps are.
        """


@dataclass(frozen=True)
class OneStep(Denoiser):
    """The mean of clean data itself: Tweedie's formula (arXiv 2412.06329)."""

    def __call__(
        self,
        mean: Mean,
        x: Examples,
        level: PerExample,
        source: RandomSource = None,
        progress: Progress = iter,
    ) -> Examples:
        return mean(x, level)


@dataclass(frozen=True)
class Ladder(Denoiser):
    r"""Goes down from level to level, in even steps from that of the data to `low`, then to none.

    At each level t, $D$ is the mean of clean data and $v = (x - D) / t$ the noise, and the next
    one, t', has $x' = D + t' v'$; the last step returns D (iTARFlow, arXiv 2604.20041).

    Attributes:
        steps: Number of levels, and so of means that are computed.
        low: The last level before none; by default the lowest of the flow's noise.
    """

    steps: int = 30
    low: float | None = None

    def __post_init__(self):
        keep(self, steps=check_integer("denoising steps", self.steps, least=1))
        if self.low is not None:
            keep(self, low=float(check_real("low", self.low)))
            if not 0 < self.low < torch.inf:
                raise ConfigurationError(f"low {self.low} must be a finite noise level above 0")

    def fitted(self, noise: Noise | None) -> "Denoiser":
        if isinstance(noise, NoiseLevels):
            return self if self.low is not None else replace(self, low=noise.low)
        raise ConfigurationError(
            f"{type(self).__name__} goes through many noise levels, but this flow was trained with"
            f" {shown(noise)}: denoise it by OneStep()"
        )

    def levels(self, first: PerExample) -> Float[Tensor, "levels batch"]:
        """The levels that each example goes through: `steps` of them, then none."""
        assert self.low is not None
        share = torch.linspace(0, 1, self.steps, dtype=first.dtype, device=first.device)
        last = first.clamp(max=self.low)
        return torch.cat([first.lerp(last, share[:, None]), torch.zeros_like(first)[None]])

    @abstractmethod
    def renewed(
        self, noise: Examples, ratio: Float[Tensor, "batch ..."], source: RandomSource
    ) -> Examples:
        """The noise of the next level, which is lower by a ratio."""

    def __call__(
        self,
        mean: Mean,
        x: Examples,
        level: PerExample,
        source: RandomSource = None,
        progress: Progress = iter,
    ) -> Examples:
        source, levels = ExampleStreams.of(source), self.levels(level)
        beside = levels.view(*levels.shape, *(1,) * (x.ndim - 1)).to(x.dtype)
        for step in progress(range(self.steps)):
            clean, (now, then) = mean(x, levels[step]), beside[step : step + 2]
            if step == self.steps - 1:
                x = clean
            else:
                x = clean + then * self.renewed((x - clean) / now, then / now, source)
        return x


@dataclass(frozen=True)
class ProbabilityFlow(Ladder):
    """Euler steps of the probability-flow ODE: the noise stays what it is, and shrinks."""

    def renewed(
        self, noise: Examples, ratio: Float[Tensor, "batch ..."], source: RandomSource
    ) -> Examples:
        return noise


@dataclass(frozen=True)
class StochasticDenoising(Ladder):
    r"""Replaces a part of the noise by a new draw: $a v + \sqrt{1 - a^2} \epsilon$ with a = t'/t.

    The draws are those of the example, where the source has seeds.
    """

    def renewed(
        self, noise: Examples, ratio: Float[Tensor, "batch ..."], source: RandomSource
    ) -> Examples:
        fresh = normal(noise.shape, source, noise.dtype, noise.device, "denoising")
        return ratio * noise + (1 - ratio.square()).clamp(min=0).sqrt() * fresh


@dataclass(frozen=True)
class AutoDenoiser(Denoiser):
    """What fits the flow's noise: `ProbabilityFlow` where it has many levels, else `OneStep`.

    Attributes:
        steps: Those of `ProbabilityFlow`.
    """

    steps: int = 30

    def __post_init__(self):
        ProbabilityFlow(self.steps)  # which checks them

    def fitted(self, noise: Noise | None) -> "Denoiser":
        levels = isinstance(noise, NoiseLevels)
        return ProbabilityFlow(self.steps).fitted(noise) if levels else OneStep()

    def __call__(
        self,
        mean: Mean,
        x: Examples,
        level: PerExample,
        source: RandomSource = None,
        progress: Progress = iter,
    ) -> Examples:
        raise ConfigurationError("AutoDenoiser denoises through what fits the noise: fitted()")
