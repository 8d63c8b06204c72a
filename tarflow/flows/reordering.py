"""Transforms that put the positions of a sequence in another order."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.arguments import check_integer, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context
from tarflow.flows.shapes import ByPosition
from tarflow.flows.transforms import Rearrangement


class Reordering(Rearrangement):
    """Puts the positions of a sequence in another order."""

    @abstractmethod
    def renamed(self, order: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """Where positions, as they were numbered before, stand in the new order."""

    def carried(self, context: Context, by_position: frozenset[str]) -> Context:
        moved = {name: self.arrange(context[name]) for name in by_position if name in context}
        if "order" in moved:  # the numbers of positions, which are others now
            moved["order"] = self.renamed(moved["order"])
        return context.updated(**moved)


class Reverse(Reordering):
    """Reverses the order of a sequence."""

    def inverted(self) -> "Reverse":
        """What undoes it."""
        return Reverse()

    def arrange(self, x: ByPosition) -> ByPosition:
        return x.flip(1)

    def restore(self, z: ByPosition) -> ByPosition:
        return z.flip(1)

    def renamed(self, order: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        return order.shape[1] - 1 - order


class Permute(Reordering):
    """Puts a sequence in another order: position i of the result is `order[i]` of the input.

    Raises:
        ConfigurationError: The order is not a permutation.
    """

    order: Int[Tensor, " length"]
    inverse_order: Int[Tensor, " length"]

    def __init__(self, order: Sequence[int]):
        super().__init__()
        given = order if isinstance(order, Iterable) else ()
        listed = [check_integer(f"a position of order {shown(order)}", index) for index in given]
        if not listed or sorted(listed) != list(range(len(listed))):
            raise ConfigurationError(f"order {shown(order)} is not a permutation of 0 ... T - 1")
        self.listed = listed
        self.register_buffer("order", torch.tensor(listed))
        self.register_buffer("inverse_order", torch.tensor(listed).argsort())

    def arrange(self, x: ByPosition) -> ByPosition:
        return x[:, self.order]

    def restore(self, z: ByPosition) -> ByPosition:
        return z[:, self.inverse_order]

    def renamed(self, order: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        return self.inverse_order[order]

    def inverted(self) -> "Permute":
        """What undoes it."""
        return Permute(sorted(range(len(self.listed)), key=self.listed.__getitem__))


def rearrangement(order: Sequence[int]) -> Reverse | Permute | None:
    """What puts a sequence in an order; None where that is its own."""
    own: Sequence[int] = range(len(order))
    if not isinstance(order, range):  # of which a damaged file may ask for one without end
        order, own = list(order), list(own)
    if order == own:
        return None
    return Reverse() if order == own[::-1] else Permute(order)
