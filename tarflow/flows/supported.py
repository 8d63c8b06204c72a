"""The transform from values within supports to all real numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product, repeat

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tarflow.arguments import check_instance
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.position_conditioning import MaskConditioner
from tarflow.flows.report import Inverse
from tarflow.flows.shapes import Examples, PerExample
from tarflow.flows.supports import Support
from tarflow.flows.transforms import Transform

MOST_SHIFTS = 1024
"""Points that a value may stand for, in all columns together."""

NUM_CELL_POINTS = 16
"""Points of each cell whose densities are averaged."""

Supports = Support | Sequence[Support]
"""One for every column, or one after the other for all columns."""


@dataclass(frozen=True)
class Columns:
    """Columns that follow each other: of one support, or several that are equal.

    Attributes:
        support: The support.
        count: Number of supports.
        start: The first column.
        start_inner: The first of the real numbers that they become.
    """

    support: Support
    count: int
    start: int
    start_inner: int

    def of(self, x: Tensor) -> Float[Tensor, "*batch count size"]:
        """The values of each support."""
        size = self.support.size
        return x.narrow(-1, self.start, self.count * size).unflatten(-1, (self.count, size))

    def inner_of(self, z: Tensor) -> Float[Tensor, "*batch count num_inner"]:
        """The real numbers of each support."""
        size = self.support.num_inner
        return z.narrow(-1, self.start_inner, self.count * size).unflatten(-1, (self.count, size))


class Supported(Transform):
    """Maps points within supports to real numbers.

    A point outside has the log-determinant minus infinity, and so its density is zero.

    Args:
        supports: One support for all columns, or one after the other.
        num_columns: Number of columns.
        length: Number of positions whose vectors have these columns; None for vectors alone.

    Raises:
        ConfigurationError: They are of other columns, or stand for too many points.
    """

    def __init__(self, supports: Supports, num_columns: int, length: int | None = None):
        super().__init__()
        self.conditioners = () if length is None else (MaskConditioner(length),)
        self.columns = columns_of(supports, num_columns)
        turns = sum(each.count * math.log(len(each.support.shifts)) for each in self.columns)
        if turns > math.log(MOST_SHIFTS):
            raise ConfigurationError(
                f"the circles have more than {MOST_SHIFTS} turns to sum over: let num_turns be"
                " lower, or there be fewer of them"
            )

    @property
    def folds(self) -> bool:
        """Whether some values stand for several points."""
        return self.has_cells or any(len(each.support.shifts) > 1 for each in self.columns)

    @property
    def num_inner(self) -> int:
        """Number of real numbers that the columns become."""
        return sum(each.count * each.support.num_inner for each in self.columns)

    def holds(self, x: Examples, context: Context) -> Bool[Tensor, " batch"]:
        """Whether the values of examples lie in the supports."""
        found = [each.support.holds(each.of(x)).all(dim=-1) for each in self.columns]
        return self._everywhere(torch.stack(found).all(dim=0), context)

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, PerExample]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        inner, log_dets, inside = [], [], []
        for each in self.columns:
            groups = each.of(x)
            held = each.support.contains(groups)
            middle = each.support.to_points(groups.new_zeros(each.support.num_inner))
            numbers, log_det = each.support.to_inner(groups.where(held[..., None], middle))
            inner.append(numbers.flatten(-2))
            log_dets.append(log_det.sum(dim=-1))
            inside.append(held.all(dim=-1))
        log_det, mask = torch.stack(log_dets).sum(dim=0), context.get("mask")
        if mask is not None:
            log_det = log_det.where(mask, 0.0)
        log_det = log_det if log_det.ndim == 1 else log_det.sum(dim=1)
        held = self._everywhere(torch.stack(inside).all(dim=0), context)
        return torch.cat(inner, dim=-1), log_det.where(held, -torch.inf)

    def inverse(
        self, z: Tensor, context: Context, options: DecodeOptions = DecodeOptions()
    ) -> Inverse:
        points = [each.support.to_points(each.inner_of(z)) for each in self.columns]
        x = torch.cat([each.flatten(-2) for each in points], dim=-1)
        _, log_det = self(x, context)
        return Inverse(x, log_det)

    def fold(self, points: Examples) -> Examples:
        """The values that points stand for."""
        found = [each.support.fold(each.of(points)) for each in self.columns]
        return torch.cat([each.flatten(-2) for each in found], dim=-1)

    def check(self, x: Examples, context: Context) -> None:
        """Refuse values outside of their supports.

        Raises:
            ConfigurationError: It names the first column with such a value.
        """
        if self.holds(x, context).all():
            return
        mask = context.get("mask")
        for each in self.columns:
            held = each.support.holds(each.of(x))
            held = held if mask is None else held | ~mask[..., None]
            lost = (~held).flatten(0, -2).any(dim=0).nonzero().flatten().tolist()
            if lost:
                first = each.start + lost[0] * each.support.size
                raise ConfigurationError(
                    f"column {first} holds values outside of its support, {each.support}"
                )

    def unfolded(
        self, x: Examples, at: Float[Tensor, "cells batch ..."] | None = None
    ) -> Float[Tensor, "shifts cells batch ..."]:
        """The points that values stand for: all shifts, and some of each cell.

        Args:
            x: The values.
            at: Where in the cells, from 0 to 1; by default at places that fill them evenly.
        """
        if at is None:
            at = self._spread(x)
        points = x + at * self.cells(x)
        shifts = self.shifts(x)
        return points + shifts.view(len(shifts), *(1,) * (points.ndim - 1), -1)

    def _spread(self, x: Examples) -> Float[Tensor, "cells one ..."]:
        """Places in the cells, the same for all examples."""
        cells = self.cells(x).expand(x.shape[1:]) > 0
        if not self.has_cells:
            return x.new_zeros(1, 1, *x.shape[1:])
        places = x.new_zeros(NUM_CELL_POINTS, *x.shape[1:])
        places[:, cells] = spread(NUM_CELL_POINTS, int(cells.sum())).to(x)
        return places[:, None]

    @property
    def has_cells(self) -> bool:
        """Whether a value stands for a cell."""
        return any(each.support.cell for each in self.columns)

    def shifts(self, like: Tensor) -> Float[Tensor, "shifts columns"]:
        """How far the points are from values which stand for several of them."""
        of_columns = [one.support.shifts for one in self._each_column]
        return torch.tensor([*product(*of_columns)], dtype=like.dtype, device=like.device)

    def cells(self, like: Tensor) -> Float[Tensor, " columns"]:
        """The width of the cell that a value of each column stands for."""
        widths = [one.support.cell for one in self._each_column]
        return torch.tensor(widths, dtype=like.dtype, device=like.device)

    @property
    def _each_column(self) -> Iterator[Columns]:
        """What each column belongs to."""
        for each in self.columns:
            yield from repeat(each, each.count * each.support.size)

    def _everywhere(self, there: Tensor, context: Context) -> Bool[Tensor, " batch"]:
        """What holds at all positions of examples that are there."""
        mask = context.get("mask")
        there = there if mask is None else there | ~mask
        return there if there.ndim == 1 else there.all(dim=1)


def spread(num_points: int, num_dims: int) -> Float[Tensor, "points dims"]:
    """Points that fill a cube evenly, in float64: the lattice of the generalized golden ratio."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (num_dims + 1))
    steps = ratio ** -torch.arange(1, num_dims + 1, dtype=torch.float64)
    points = torch.arange(1, num_points + 1, dtype=torch.float64)
    return (0.5 + points[:, None] * steps).remainder(1.0)


def check_supports(supports: Supports) -> Supports:
    """Read a support or a list of them.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(supports, list | tuple):
        check_instance("supports", supports, Support, "pass one, or a list of them")
        return supports
    for each in supports:
        check_instance("one of supports,", each, Support, "pass one, such as Interval(0, 1)")
    return tuple(supports)


def columns_of(supports: Supports, num_columns: int) -> tuple[Columns, ...]:
    """Where the columns of supports lie; those of equal ones together.

    Raises:
        ConfigurationError: They are of another number of columns.
    """
    listed = [supports] if isinstance(supports, Support) else supports
    counts = [(support, len([*group])) for support, group in groupby(listed)]
    if isinstance(supports, Support):
        counts = [(supports, num_columns // supports.size)]
    found, start, start_inner = [], 0, 0
    for support, count in counts:
        found.append(Columns(support, count, start, start_inner))
        start, start_inner = start + count * support.size, start_inner + count * support.num_inner
    if start != num_columns:
        raise ConfigurationError(
            f"supports of {start} columns, but there are {num_columns}: give one after the other,"
            " Real() where any number may be"
        )
    return tuple(found)


def num_inner(supports: Supports, num_columns: int) -> int:
    """Number of real numbers that the numbers within supports become."""
    return sum(each.count * each.support.num_inner for each in columns_of(supports, num_columns))
