"""In which order a transform reads the positions of each example, and which of them are there."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tarflow.flows.context import Context
from tarflow.flows.shapes import ByPosition, Sequences


class Reading:
    """Reads the positions as they stand: all of them are there."""

    @staticmethod
    def of(context: Context) -> "Reading":
        """The reading that a context asks for."""
        mask = context.get("mask")
        return Reading() if mask is None else ValidFirst.of(mask)

    def arrange(self, x: Sequences) -> Sequences:
        """Put a sequence in the order that is read."""
        return x

    def restore(self, z: Sequences) -> Sequences:
        """Put it back in its own."""
        return z

    def carried(self, context: Context, by_position: Iterable[str]) -> Context:
        """The context in that order: of some parts, rows have a value for each position."""
        return context


@dataclass(frozen=True)
class ValidFirst(Reading):
    """Reads what is there in its order, and behind it, as zeros, what is not.

    So no position attends to one that is not there, without a mask of attention and its price.
    """

    order: Int[Tensor, "batch length"]
    mask: Bool[Tensor, "batch length"]

    @classmethod
    def of(cls, mask: Bool[Tensor, "batch length"]) -> "ValidFirst":
        """That of a mask, which tells of every position whether it is there."""
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
        return cls(order, mask.gather(1, order))

    def arrange(self, x: Sequences) -> Sequences:
        return by_order(x, self.order).where(self.mask[..., None], 0.0)

    def restore(self, z: Sequences) -> Sequences:
        return by_order(z, self.order.argsort(dim=1))

    def carried(self, context: Context, by_position: Iterable[str]) -> Context:
        parts = {
            name: by_order(context[name], self.order) for name in by_position if name in context
        }
        # Where each position stands, which its place no longer tells.
        return context.updated(**{"order": self.order, **parts, "mask": self.mask})


def by_order(rows: ByPosition, order: Int[Tensor, "batch length"]) -> ByPosition:
    """Put the positions of each example in an order of its own."""
    index = order.reshape(*order.shape, *(1,) * (rows.ndim - 2))
    return rows.gather(1, index.expand(rows.shape))
