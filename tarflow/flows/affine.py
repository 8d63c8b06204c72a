"""The affine map between data and noise, and the ways to parameterize its scale."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tarflow.arguments import check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.shapes import PerExample
from tarflow.registry import Part

Vectors = Float[Tensor, "batch window patch_dim"]
"""Numbers at some positions of sequences."""


@dataclass(frozen=True)
class Affine:
    r"""An elementwise map $x = z \exp(\alpha) + \mu$, and its inverse, of log-scale and shift."""

    log_scale: Vectors
    shift: Vectors

    neutral: ClassVar[Mapping[str, float]] = {}
    """Values of fields in the map that changes nothing, where they are not 0."""

    @classmethod
    def identity(cls, x: Vectors) -> "Affine":
        """The maps that change nothing, at the positions of x."""
        return cls(torch.zeros_like(x), torch.zeros_like(x))

    @staticmethod
    def cat(maps: Sequence["Affine"]) -> "Affine":
        """Put maps of one kind in a row: those of positions that follow each other."""
        columns = zip(*(vars(each).values() for each in maps), strict=True)
        return type(maps[0])(*(torch.cat(column, dim=1) for column in columns))

    def room(self, length: int) -> "Affine":
        """Maps of this kind for so many positions, to be filled in: zeros so far."""
        fields = vars(self).values()
        return type(self)(*(f.new_zeros(f.shape[0], length, f.shape[2]) for f in fields))

    def within(self, mask: Bool[Tensor, "batch window"]) -> "Affine":
        """The same where a mask is true, and elsewhere the map that changes nothing."""
        # Not by `where`, which copies a number to a GPU: nothing that a CUDA graph may do.
        away = ~mask[..., None]
        return self._each(lambda field, neutral: field.masked_fill(away, neutral))

    def after_first(self) -> "Affine":
        """Put the identity map, of the position that nothing precedes, in front."""
        return self._each(lambda field, neutral: F.pad(field, (0, 0, 1, 0), value=neutral))

    def _each(self, change: Callable[[Tensor, float], Tensor]) -> "Affine":
        """Change every field, given its neutral value."""
        fields = vars(self).items()
        return type(self)(*(change(field, self.neutral.get(name, 0.0)) for name, field in fields))

    def to_noise(self, x: Vectors) -> Vectors:
        r"""Normalize data: $z = (x - \mu) \exp(-\alpha)$."""
        return (x - self.shift) * torch.exp(-self.log_scale)

    def to_data(self, z: Vectors) -> Vectors:
        r"""Undo `to_noise`: $x = z \exp(\alpha) + \mu$."""
        return z * torch.exp(self.log_scale) + self.shift

    def log_det(self, x: Vectors) -> PerExample:
        r"""$\log |\det dz/dx| = -\sum \alpha$ of each example, in nats."""
        return -self.log_scale.sum(dim=(1, 2))

    def scale(self, x: Vectors) -> Vectors:
        r"""$dx/dz = \exp(\alpha)$ of every number."""
        return torch.exp(self.log_scale)


@dataclass(frozen=True)
class SignedAffine(Affine):
    r"""A map $x = z s + \mu$ whose scale may be negative: the log-scale is $\log |s|$.

    Attributes:
        sign: 1 or -1; NaN where the scale is 0, which no noise could be found through.
    """

    sign: Vectors

    neutral: ClassVar[Mapping[str, float]] = {"sign": 1.0}

    def to_noise(self, x: Vectors) -> Vectors:
        return self.sign * super().to_noise(x)

    def to_data(self, z: Vectors) -> Vectors:
        return super().to_data(self.sign * z)

    def scale(self, x: Vectors) -> Vectors:
        return self.sign * super().scale(x)


@dataclass(frozen=True)
class Scale(Part):
    """How a network's output becomes a log-scale: here, it is the log-scale (TarFlow)."""

    num_outputs: ClassVar[int] = 2
    """Numbers that the network predicts for each dimension: with a scale two, without one."""

    def affine(self, raw: Float[Tensor, "batch window outputs"]) -> Affine:
        """Read the map off the network's output: first every log-scale, then every shift."""
        log_scale, shift = raw.chunk(2, dim=-1)
        return Affine(self.log_scale(log_scale), shift)

    def log_scale(self, raw: Tensor) -> Tensor:
        """Turn the network's number into the logarithm of the scale."""
        return raw


@dataclass(frozen=True)
class ExpScale(Scale):
    r"""$\sigma = \exp(a)$: the scale of TarFlow (arXiv 2412.06329)."""


@dataclass(frozen=True)
class SoftClipScale(Scale):
    r"""$\sigma = \exp(b \tanh(a / b))$: the log-scale stays within the bound, $\pm b$."""

    bound: float = 4.0

    def __post_init__(self):
        keep(self, bound=check_real("bound", self.bound))
        if not self.bound > 0:
            raise ConfigurationError(f"the bound {self.bound} of the log-scale is not positive")

    def log_scale(self, raw: Tensor) -> Tensor:
        return self.bound * torch.tanh(raw / self.bound)


@dataclass(frozen=True)
class SoftplusScale(Scale):
    r"""$\sigma = \mathrm{softplus}(a + 0.5413)$, which is 1 at 0 (STARFlow, arXiv 2506.06276)."""

    def log_scale(self, raw: Tensor) -> Tensor:
        return F.softplus(raw + math.log(math.e - 1)).log()


@dataclass(frozen=True)
class UnitScale(Scale):
    """No scale at all: the volume-preserving variant of TarFlow."""

    num_outputs: ClassVar[int] = 1

    def affine(self, raw: Float[Tensor, "batch window outputs"]) -> Affine:
        return Affine(torch.zeros_like(raw), raw)
