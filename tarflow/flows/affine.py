"""The affine map between data and noise, and the ways to parameterize its scale."""

import math
from collections.abc import Sequence
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
        batch, _, size = self.shift.shape
        return type(self)(*(each.new_zeros(batch, length, size) for each in vars(self).values()))

    def within(self, mask: Bool[Tensor, "batch window"]) -> "Affine":
        """The same where a mask is true, and elsewhere the map that changes nothing."""
        there = mask[..., None]
        return Affine(self.log_scale.where(there, 0.0), self.shift.where(there, 0.0))

    @property
    def scale(self) -> Vectors:
        r"""$\exp(\alpha)$."""
        return torch.exp(self.log_scale)

    def to_noise(self, x: Vectors) -> Vectors:
        r"""Normalize data: $z = (x - \mu) \exp(-\alpha)$."""
        return (x - self.shift) * torch.exp(-self.log_scale)

    def to_data(self, z: Vectors) -> Vectors:
        r"""Undo `to_noise`: $x = z \exp(\alpha) + \mu$."""
        return z * torch.exp(self.log_scale) + self.shift

    def after_first(self) -> "Affine":
        """Put the identity map, of the position that nothing precedes, in front."""
        return Affine(F.pad(self.log_scale, (0, 0, 1, 0)), F.pad(self.shift, (0, 0, 1, 0)))

    @property
    def log_det(self) -> PerExample:
        r"""$\log |\det dz/dx| = -\sum \alpha$ of each example, in nats."""
        return -self.log_scale.sum(dim=(1, 2))


@dataclass(frozen=True)
class SignedAffine(Affine):
    r"""A map $x = z s + \mu$ whose scale may be negative: the log-scale is $\log |s|$.

    Attributes:
        sign: 1 or -1; NaN where the scale is 0, which no noise could be found through.
    """

    sign: Vectors

    @property
    def scale(self) -> Vectors:
        """The scale with its sign."""
        return self.sign * torch.exp(self.log_scale)

    def to_noise(self, x: Vectors) -> Vectors:
        return self.sign * super().to_noise(x)

    def to_data(self, z: Vectors) -> Vectors:
        return super().to_data(self.sign * z)

    def within(self, mask: Bool[Tensor, "batch window"]) -> "SignedAffine":
        sign = self.sign.where(mask[..., None], 1.0)
        return SignedAffine(**vars(super().within(mask)), sign=sign)

    def after_first(self) -> "SignedAffine":
        sign = F.pad(self.sign, (0, 0, 1, 0), value=1.0)
        return SignedAffine(**vars(super().after_first()), sign=sign)


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
