"""Norms: how layers, heads and outputs bring vectors to one size."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from tarflow.arguments import check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.registry import Part


@dataclass(frozen=True)
class Norm(Part, ABC):
    """Describes a kind of norm: makes a module that maps vectors to vectors of the same size.

    Attributes:
        eps: Added to the mean of squares, so that a vector of zeros has a norm.

    Raises:
        ConfigurationError: It is not positive.
    """

    eps: float = 1e-5

    def __post_init__(self):
        keep(self, eps=check_real("eps", self.eps))
        if not self.eps > 0:
            raise ConfigurationError(f"eps {self.eps} of a norm is not positive")

    @abstractmethod
    def __call__(self, size: int) -> nn.Module:
        """Make the norm of vectors of some size."""


@dataclass(frozen=True)
class LayerNormalization(Norm):
    r"""$(x - \bar x) / \sqrt{\mathrm{var}(x) + \epsilon} \odot w + b$ (arXiv 1607.06450)."""

    def __call__(self, size: int) -> nn.Module:
        return nn.LayerNorm(size, self.eps)


@dataclass(frozen=True)
class RootMeanSquare(Norm):
    r"""$x / \sqrt{\overline{x^2} + \epsilon} \odot w$: no mean is taken off (arXiv 1910.07467)."""

    def __call__(self, size: int) -> nn.Module:
        return nn.RMSNorm(size, self.eps)
