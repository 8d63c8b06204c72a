"""Monotone splines behind affine maps: conditionals that are not normal."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, keep
from tarflow.flows.affine import Affine, Scale, Vectors
from tarflow.flows.shapes import PerExample

BOUND = 5.0
"""Outside of $\\pm$ this a spline changes nothing: in units of normal noise, that is far out."""
LEAST = 1e-3
"""Least width and height of a bin, as a share of all, and least slope at a knot."""

Numbers = Float[Tensor, "batch window patch_dim numbers"]
Knots = Float[Tensor, "batch window patch_dim knots"]


@dataclass(frozen=True)
class SplineMap(Affine):
    r"""An affine map and a spline behind it: $z = S((x - \mu) \exp(-\alpha))$.

    S is a monotone rational-quadratic spline of K bins, with a closed form for its inverse; where
    its 3 K - 1 numbers are 0, it changes nothing (arXiv 1906.04032).

    Attributes:
        curve: Of each dimension, K widths and K heights of bins, and slopes at the K - 1 knots
            between them, all without constraints.
    """

    curve: Float[Tensor, "batch window curve"]

    def to_noise(self, x: Vectors) -> Vectors:
        return self._spline.forward(super().to_noise(x))[0]

    def to_data(self, z: Vectors) -> Vectors:
        return super().to_data(self._spline.inverse(z))

    def log_det(self, x: Vectors) -> PerExample:
        log_slope = self._spline.forward(super().to_noise(x))[1]
        return super().log_det(x) + log_slope.sum(dim=(1, 2))

    def scale(self, x: Vectors) -> Vectors:
        log_slope = self._spline.forward(super().to_noise(x))[1]
        return torch.exp(self.log_scale - log_slope)

    @property
    def _spline(self) -> "Spline":
        """The spline of each number."""
        return Spline(self.curve.unflatten(2, (self.shift.shape[2], -1)))


@dataclass(frozen=True)
class SplineScale(Scale):
    """A scale, a shift, and a monotone spline behind them (arXiv 1906.04032).

    One transform can then give a number any density, given those before it, not just a normal one:
    for vectors and tables, which have few numbers, that is worth more than further transforms.
    Guidance moves scale and shift, and leaves the spline as it is. Log-densities are continuous,
    and their gradients jump at knots.

    Attributes:
        num_bins: Number of pieces of the spline.

    Raises:
        ConfigurationError: There are less than two.
    """

    num_bins: int = 8

    def __post_init__(self):
        keep(self, num_bins=check_integer("num_bins", self.num_bins, least=2))

    @property
    def num_outputs(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 3 * self.num_bins + 1

    def affine(self, raw: Float[Tensor, "batch window outputs"]) -> SplineMap:
        size = raw.shape[2] // self.num_outputs
        log_scale, shift, curve = raw.split([size, size, raw.shape[2] - 2 * size], dim=2)
        return SplineMap(log_scale, shift, curve)


@dataclass(frozen=True)
class Spline:
    """Monotone rational-quadratic splines, one for each number.

    Attributes:
        raw: Widths, heights and slopes, without constraints.
    """

    raw: Numbers

    def forward(self, u: Vectors) -> tuple[Vectors, Vectors]:
        """The value, and the logarithm of the slope."""
        at = u.clamp(-BOUND, BOUND)
        piece = self._piece(at, self._knots[0])
        share = (at - piece.left) / piece.width
        rest = share * (1 - share)
        below = piece.mean + piece.bend * rest
        value = piece.bottom + piece.height * (piece.mean * share**2 + piece.first * rest) / below
        slope = piece.last * share**2 + 2 * piece.mean * rest + piece.first * (1 - share) ** 2
        log_slope = 2 * piece.mean.log() + slope.log() - 2 * below.log()
        outside = u.abs() >= BOUND
        return u.where(outside, value), log_slope.masked_fill(outside, 0.0)

    def inverse(self, v: Vectors) -> Vectors:
        """Where the spline has a value: the root of a quadratic in each bin."""
        at = v.clamp(-BOUND, BOUND)
        piece = self._piece(at, self._knots[1])
        rise = at - piece.bottom
        a = piece.height * (piece.mean - piece.first) + rise * piece.bend
        b = piece.height * piece.first - rise * piece.bend
        c = -piece.mean * rise
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        share = 2 * c / (-b - root)
        return (piece.left + share * piece.width).where(v.abs() < BOUND, v)

    @cached_property
    def _knots(self) -> tuple[Knots, Knots, Knots]:
        """Places and values of all knots, and the slopes there."""
        count = (self.raw.shape[3] + 1) // 3
        widths, heights, slopes = self.raw.split([count, count, count - 1], dim=3)
        # a slope of 1 where the raw number is 0, as beyond the outer knots
        inner = LEAST + F.softplus(slopes + math.log(math.expm1(1 - LEAST)))
        return _placed(widths), _placed(heights), F.pad(inner, (1, 1), value=1.0)

    def _piece(self, at: Vectors, knots: Knots) -> "Piece":
        """The piece in which each number lies, by knots among which it is to be found."""
        index = (at[..., None] >= knots[..., 1:-1]).sum(dim=3, keepdim=True)
        ends = [
            knots.take_along_dim(index + step, dim=3).squeeze(3)
            for knots in self._knots
            for step in (0, 1)
        ]
        return Piece(*ends)


@dataclass(frozen=True)
class Piece:
    """Pieces of splines, by their ends: where they are, their values, and their slopes."""

    left: Vectors
    right: Vectors
    bottom: Vectors
    top: Vectors
    first: Vectors
    last: Vectors

    @cached_property
    def width(self) -> Vectors:
        """How wide they are."""
        return self.right - self.left

    @cached_property
    def height(self) -> Vectors:
        """How much they rise."""
        return self.top - self.bottom

    @cached_property
    def mean(self) -> Vectors:
        """The mean slope."""
        return self.height / self.width

    @cached_property
    def bend(self) -> Vectors:
        """By how much the slopes at the ends exceed the mean, together."""
        return self.first + self.last - 2 * self.mean


def _placed(raw: Numbers) -> Knots:
    """Knots from -BOUND to BOUND, between bins of some sizes without constraints."""
    count = raw.shape[3]
    sizes = LEAST + (1 - LEAST * count) * raw.softmax(dim=3)
    inner = sizes[..., :-1].cumsum(dim=3)
    return 2 * BOUND * F.pad(F.pad(inner, (1, 0)), (0, 1), value=1.0) - BOUND
