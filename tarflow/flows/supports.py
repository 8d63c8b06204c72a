"""Supports: where numbers may lie, and how a density of all real numbers becomes one of them."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import biject_to, constraints

from tarflow.arguments import check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.registry import Part

Values = Float[Tensor, "*batch size"]
"""Numbers that a support is about."""

Inner = Float[Tensor, "*batch num_inner"]
"""The real numbers that they become."""


@dataclass(frozen=True)
class Support(Part, ABC):
    """Where some numbers may lie, with a bijection to all real numbers, one of torch's.

    A value may stand for several points of that bijection, of which densities are summed: `shifts`
    tells how far they are from it; and for all points of a `cell` behind each, whose density is
    averaged.
    """

    shifts: ClassVar[tuple[float, ...]] = (0.0,)
    cell: ClassVar[float] = 0.0

    @property
    @abstractmethod
    def constraint(self) -> constraints.Constraint:
        """What holds of points."""

    @property
    def support(self) -> constraints.Constraint:
        """What holds of values."""
        return self.constraint

    @property
    def size(self) -> int:
        """Number of numbers that it is about."""
        return 1

    @property
    def num_inner(self) -> int:
        """Number of real numbers that they become."""
        return self.size

    def holds(self, x: Values) -> Bool[Tensor, "*batch"]:
        """Whether values lie in the support."""
        return _check(self.support, x)

    def contains(self, points: Values) -> Bool[Tensor, "*batch"]:
        """Whether points lie in the constraint."""
        return _check(self.constraint, points)

    def to_inner(self, x: Values) -> tuple[Inner, Float[Tensor, "*batch"]]:
        """The real numbers of points, and the log-determinant."""
        transform = biject_to(self.constraint)
        inner = transform.inv(x)
        log_det = transform.log_abs_det_jacobian(inner, x)
        return inner, -(log_det.sum(dim=-1) if log_det.ndim == x.ndim else log_det)

    def to_points(self, inner: Inner) -> Values:
        """The points of real numbers."""
        return biject_to(self.constraint)(inner)

    def fold(self, points: Values) -> Values:
        """The values that points stand for."""
        return points


def _check(constraint: constraints.Constraint, x: Values) -> Bool[Tensor, "*batch"]:
    """Whether a constraint holds of vectors of finite numbers."""
    found = constraint.check(x)
    found = found.all(dim=-1) if found.ndim == x.ndim else found
    return found & x.isfinite().all(dim=-1)


@dataclass(frozen=True)
class Real(Support):
    """All real numbers."""

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.real


@dataclass(frozen=True)
class Interval(Support):
    """Numbers between two bounds, by a logit.

    Attributes:
        low: The lower bound.
        high: The upper bound.

    Raises:
        ConfigurationError: They are not finite, or not in this order.
    """

    low: int | float = 0.0
    high: int | float = 1.0

    def __post_init__(self):
        for name in ("low", "high"):
            keep(self, **{name: check_real(name, getattr(self, name))})
        if not -math.inf < self.low < self.high < math.inf:
            raise ConfigurationError(f"an interval from {self.low} to {self.high} is none")

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    def to_points(self, inner: Inner) -> Values:
        return super().to_points(inner).clamp(self.low, self.high)  # beyond by rounding


@dataclass(frozen=True)
class HalfLine(Support):
    """Numbers above a bound, by a logarithm.

    Attributes:
        low: The bound.
    """

    low: int | float = 0.0

    def __post_init__(self):
        keep(self, low=check_real("low", self.low))
        if not math.isfinite(self.low):
            raise ConfigurationError(f"low {self.low} must be finite")

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.greater_than(self.low)

    def to_points(self, inner: Inner) -> Values:
        least = torch.nextafter(inner.new_tensor(self.low), inner.new_tensor(torch.inf))
        points = super().to_points(inner).clamp(max=torch.finfo(inner.dtype).max)
        return points.maximum(least)  # the bound by rounding


@dataclass(frozen=True)
class Simplex(Support):
    """Shares that are not negative and sum to 1, by breaking a stick.

    Densities are those of all shares but the last, as in `torch.distributions.Dirichlet`.

    Attributes:
        num_shares: Number of shares.
    """

    num_shares: int

    def __post_init__(self):
        keep(self, num_shares=check_integer("num_shares", self.num_shares, least=2))

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.simplex

    @property
    def size(self) -> int:
        return self.num_shares

    @property
    def num_inner(self) -> int:
        return self.num_shares - 1


@dataclass(frozen=True)
class Circle(Support):
    r"""Angles: a density of the real line, wrapped, $p(x) = \sum_k q(x + k P)$.

    The sum is that of the turns from -`num_turns` to `num_turns`: what lies further out is lost.

    Attributes:
        low: The first angle.
        period: Length of a turn, P.
        num_turns: Number of turns to either side.
    """

    low: int | float = -math.pi
    period: int | float = 2 * math.pi
    num_turns: int = 2

    def __post_init__(self):
        for name in ("low", "period"):
            keep(self, **{name: check_real(name, getattr(self, name))})
        if not (math.isfinite(self.low) and 0 < self.period < math.inf):
            raise ConfigurationError(
                f"low {self.low} and period {self.period} must be finite, and the period positive"
            )
        keep(self, num_turns=check_integer("num_turns", self.num_turns, least=1))

    @property
    def shifts(self) -> tuple[float, ...]:
        turns = range(-self.num_turns, self.num_turns + 1)
        return tuple(self.period * turn for turn in turns)

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.real

    @property
    def support(self) -> constraints.Constraint:
        return constraints.half_open_interval(self.low, self.low + self.period)

    def fold(self, points: Values) -> Values:
        folded = self.low + (points - self.low).remainder(self.period)
        return folded.where(folded < self.low + self.period, self.low)  # by rounding


@dataclass(frozen=True)
class Integers(Support):
    r"""Integers, whose probability is that of a cell, $P(n) = \int_n^{n+1} q(x) dx$.

    Attributes:
        low: The least; None for no bound.
        high: The largest; None for no bound.
    """

    low: int | None = 0
    high: int | None = None

    cell: ClassVar[float] = 1.0

    def __post_init__(self):
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                keep(self, **{name: check_integer(name, getattr(self, name))})
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ConfigurationError(f"integers from {self.low} to {self.high} are less than two")

    @property
    def constraint(self) -> constraints.Constraint:
        if self.low is None:
            return constraints.real if self.high is None else constraints.less_than(self.high + 1)
        if self.high is None:
            return constraints.greater_than(self.low)
        return constraints.interval(self.low, self.high + 1)

    @property
    def support(self) -> constraints.Constraint:
        return WholeNumbers(self.low, self.high)

    def fold(self, points: Values) -> Values:
        if self.low is None and self.high is None:
            return points.floor()
        return points.floor().clamp(self.low, self.high)  # beyond by rounding


class WholeNumbers(constraints.Constraint):
    """Integers between bounds, as `torch.distributions` knows constraints."""

    is_discrete = True

    def __init__(self, low: int | None, high: int | None):
        self.low, self.high = low, high
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether numbers are such integers."""
        found = value == value.floor()
        found = found if self.low is None else found & (value >= self.low)
        return found if self.high is None else found & (value <= self.high)
