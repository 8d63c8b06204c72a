"""Conditioners that tell which positions of a sequence are there, and in which order."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tarflow.arguments import check_integer, keep
from tarflow.errors import ContextError
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.context import Rows


@dataclass(frozen=True)
class PositionConditioner(Conditioner):
    """Tells something of every position; it stays as it is where conditions are dropped.

    Attributes:
        length: Number of positions.
    """

    length: int
    ndim: ClassVar[int] = 1
    dropped: ClassVar[bool] = False
    by_position: ClassVar[bool] = True

    def __post_init__(self):
        keep(self, length=check_integer("length", self.length, least=1))

    def read(self, rows: Rows) -> Rows:
        if rows.shape[1:] != (self.length,) or rows.is_floating_point() or rows.is_complex():
            raise ContextError(
                f"{self.part} of {rows.dtype} has shape {tuple(rows.shape)}: pass {self.kind} for"
                f" each of the {self.length} positions of each example"
            )
        return rows

    kind: ClassVar[str]
    """What there is for each position, for messages."""


@dataclass(frozen=True)
class MaskConditioner(PositionConditioner):
    """Tells which positions are there, with true; the others are padding.

    What stands in padding changes nothing: not the others, not the density, not the number of
    dimensions.
    """

    part: ClassVar[str] = "mask"
    kind: ClassVar[str] = "true or false"

    def null(self, examples: Tensor) -> Rows:
        shape = examples.shape[0], self.length
        return torch.ones(shape, dtype=torch.bool, device=examples.device)

    def read(self, rows: Rows) -> Rows:
        return super().read(rows).bool()

    def check(self, rows: Rows) -> None:
        if not rows.any(dim=1).all():
            raise ContextError("an example has no position: every row of a mask needs a true")


@dataclass(frozen=True)
class OrderConditioner(PositionConditioner):
    """The order in which each example is read: `order[i]` is the position that comes i-th.

    A transform whose ordering is another than that of the data reads it in that ordering; what is
    learned of a position goes with it.
    """

    part: ClassVar[str] = "order"
    kind: ClassVar[str] = "an integer"

    def null(self, examples: Tensor) -> Rows:
        positions = torch.arange(self.length, device=examples.device)
        return positions.expand(examples.shape[0], -1)

    def read(self, rows: Rows) -> Rows:
        return super().read(rows).long()

    def check(self, rows: Rows) -> None:
        if not torch.equal(rows.sort(dim=1).values, self.null(rows)):
            raise ContextError(
                f"an order is not one of the positions 0 ... {self.length - 1}: each comes once"
            )
