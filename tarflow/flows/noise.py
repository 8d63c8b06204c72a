"""Noise that is added to data before a density is fitted to it."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tarflow.arguments import check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.context import Context
from tarflow.flows.shapes import Examples
from tarflow.randomness import RandomSource, normal
from tarflow.registry import Part


@dataclass(frozen=True)
class Noise(Part, ABC):
    """Adds noise to x, whatever that is."""

    conditioners: ClassVar[tuple[Conditioner, ...]] = ()
    """What reads the parts of a context that tell of the noise; a flow of such data has them."""

    removable: ClassVar[bool] = False
    """Whether a density of noisy data tells how to remove the noise; see `tarflow.denoise`."""

    @abstractmethod
    def __call__(self, x: Examples, source: RandomSource = None) -> Examples:
        """Noisy data, in the dtype and on the device of x."""

    def drawn(self, x: Examples, source: RandomSource = None) -> tuple[Examples, Context]:
        """Noisy data, and what its density is conditioned on that tells of the noise."""
        return self(x, source), Context()

    def sampled(self, examples: Tensor) -> Context:
        """What samples are conditioned on that tells of the noise in them."""
        return Context()

    @property
    def words(self) -> str:
        """The noise, as likelihoods of noisy data name it."""
        return repr(self)


@dataclass(frozen=True)
class NoNoise(Noise):
    """Leaves data as it is: the density is one of the data itself."""

    def __call__(self, x: Examples, source: RandomSource = None) -> Examples:
        return x


@dataclass(frozen=True)
class GaussianNoise(Noise):
    r"""$x + \sigma \epsilon$: for samples, from which it is removed; see `denoise`.

    Attributes:
        std: Standard deviation $\sigma$, in the units of x.
    """

    std: float = 0.05
    removable: ClassVar[bool] = True

    def __post_init__(self):
        keep(self, std=check_real("noise std", self.std))
        if not 0 <= self.std < math.inf:
            raise ConfigurationError(f"noise std {self.std} must be finite and not negative")

    def __call__(self, x: Examples, source: RandomSource = None) -> Examples:
        return x + self.std * normal(x.shape, source, x.dtype, x.device, "noise")

    @property
    def words(self) -> str:
        return f"sigma {self.std}"
