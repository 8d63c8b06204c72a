"""Transforms that put every example in an order of its own, and back."""

from jaxtyping import Int
from torch import Tensor

from tarflow.flows.context import Context
from tarflow.flows.position_conditioning import OrderConditioner
from tarflow.flows.reading_order import by_order
from tarflow.flows.shapes import Sequences
from tarflow.flows.transforms import VolumePreserving


class OwnOrder(VolumePreserving):
    """Puts the positions of an example in the order that its context has, if it has one.

    Args:
        length: Number of positions.
    """

    def __init__(self, length: int):
        super().__init__()
        self.conditioners = (OrderConditioner(length),)

    def to_noise(self, x: Sequences, context: Context) -> Tensor:
        order = context.get("order")
        return x if order is None else by_order(x, self.index(order))

    def to_data(self, z: Sequences, context: Context) -> Tensor:
        order = context.get("order")
        return z if order is None else by_order(z, self.index(order).argsort(dim=1))

    def carried(self, context: Context, by_position: frozenset[str]) -> Context:
        order = context.get("order")
        if order is None:
            return context
        index, names = self.index(order), by_position - {"order"}
        return context.updated(**{name: by_order(context[name], index) for name in names})

    def index(self, order: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """Which position comes where."""
        return order


class FormerOrder(OwnOrder):
    """Undoes an `OwnOrder`."""

    def index(self, order: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        return order.argsort(dim=1)
