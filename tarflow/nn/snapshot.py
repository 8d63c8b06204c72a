"""What a network was at one moment, to tell whether it has changed since."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = {bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size}
"""Types of settings that are compared by value."""

LISTED = (list, tuple, set)
"""Types of collections that are compared by what is in them."""

EMPTY = {dict, OrderedDict, set}
"""Types of collections that are left out where they are empty."""


class Snapshot:
    """What a network was: its modules, their settings and hooks, and all numbers.

    Numbers are compared, not versions or addresses: what is written to `weight.data`, and what
    fused optimizers write, leaves no other trace (docs/experiments.md has the time it takes).

    The tensors of the copy are kept as they are: nothing may write to them.
    """

    def __init__(self, network: nn.Module, copied: nn.Module):
        outline = Outline(network)
        self.outline = outline.description
        self.numbers = [bits(tensor) for tensor in Outline(copied).tensors]
        # Views of the same memory: to make them takes as long as to compare a small network.
        self.views = [(tensor, tensor.data_ptr(), bits(tensor)) for tensor in outline.tensors]

    def shows(self, network: nn.Module) -> bool:
        """Whether the network is what it was."""
        now = Outline(network)
        if now.description != self.outline:
            return False
        for kept, tensor, (known, place, view) in zip(
            self.numbers, now.tensors, self.views, strict=True
        ):
            same_memory = tensor is known and tensor.data_ptr() == place
            if not torch.equal(kept, view if same_memory else bits(tensor)):
                return False
        return True


class Outline:
    """All of a network but its numbers.

    Attributes:
        description: Hashable; networks of equal descriptions compute the same from their tensors.
        tensors: The tensors, parameters and others, in the order of the description.
    """

    def __init__(self, network: nn.Module):
        self.tensors: list[Tensor] = []
        self._places: dict[int, int] = {}
        self.description = self._describe(network)

    def _describe(self, value: Any) -> Hashable:
        """What tells a value from another, of tensors the kind alone."""
        if isinstance(value, Tensor) and value.layout is torch.strided:
            self.tensors.append(value)
            return type(value), value.shape, value.stride(), value.dtype, value.device
        if isinstance(value, dict):
            return self._describe_all(value)
        if isinstance(value, nn.Module):
            place = self._places.setdefault(id(value), len(self._places))
            is_new = place == len(self._places) - 1
            return (type(value), self._describe_all(vars(value))) if is_new else place
        if isinstance(value, LISTED):
            return type(value), self._describe_all(dict(enumerate(value)))
        if is_dataclass(value) and not isinstance(value, type):
            return type(value), self._describe_all(vars(value))
        return Itself(value)

    def _describe_all(self, values: dict[Any, Any]) -> Hashable:
        """What is in a dictionary, but for what is empty, as most of a module's is."""
        return tuple(
            [
                (name, value if type(value) in PLAIN else self._describe(value))
                for name, value in values.items()
                if value.__class__ not in EMPTY or value
            ]
        )


@dataclass(frozen=True, eq=False)
class Itself:
    """An object that is only equal to itself."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def bits(tensor: Tensor) -> Tensor:
    """The memory of a tensor as integers, of 64 bits where possible.

    These compare in 0.6 of the time of floats, and what is not a number equals itself.
    """
    tensor, size = tensor.detach(), tensor.element_size()
    if type(tensor) is not Tensor or not tensor.is_contiguous():
        return tensor
    fits = tensor.storage_offset() * size % 8 == tensor.numel() * size % 8 == 0
    return tensor.view(-1).view(torch.int64 if fits else torch.uint8)
