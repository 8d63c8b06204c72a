"""What a network was at one moment, to tell whether it has changed since."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, is_dataclass
from itertools import chain
from operator import is_
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
        self.outline = Outline(network)
        self.contents = self.outline.contents()
        self.numbers = [bits(tensor) for tensor in Outline(copied).tensors]
        # Views of the same memory: to make them takes as long as to compare a small network.
        self.tensors = [tensor.detach() for tensor in self.outline.tensors]
        self.views = [bits(tensor) for tensor in self.tensors]

    def shows(self, network: nn.Module) -> bool:
        """Whether the network, the one it was taken of, is what it was."""
        if self._holds_the_same():
            return all(map(torch.equal, self.numbers, self.views))
        now = Outline(network)
        return now.description == self.outline.description and all(
            map(torch.equal, self.numbers, map(bits, now.tensors))
        )

    def _holds_the_same(self) -> bool:
        """Whether all of it holds the very objects that it held, and tensors the same memory.

        Then an outline, which takes thrice the time, would be the same. Where there is a list, or
        a tensor of a type that says itself what it holds, this cannot be known.
        """
        outline, (types, names, values) = self.outline, self.contents
        if outline.has_lists or any(outline.empty):
            return False
        types_now, names_now, values_now = outline.contents()
        return (
            types == types_now
            and names == names_now
            and all(map(is_, values, values_now))
            and all(map(is_view, outline.tensors, self.tensors))
        )


class Outline:
    """All of a network but its numbers.

    Attributes:
        description: Hashable; networks of equal descriptions compute the same from their tensors.
        tensors: The tensors, parameters and others, in the order of the description.
        owners: What has attributes: modules, and descriptions of parts.
        mappings: The dictionaries in these that hold something.
        empty: Collections in these that hold nothing.
        has_lists: Whether there are collections whose content `contents` does not tell.
    """

    def __init__(self, network: nn.Module):
        self.tensors: list[Tensor] = []
        self.owners: list[Any] = []
        self.mappings: list[dict[Any, Any]] = []
        self.empty: list[Any] = []
        self.has_lists = False
        self._places: dict[int, int] = {}
        self.description = self._describe(network)

    def contents(self) -> tuple[list[type], list[Any], list[Any]]:
        """The types of all owners, and the names and values in all dictionaries, as of now."""
        mappings = [*map(vars, self.owners), *self.mappings]
        values = chain.from_iterable(map(dict.values, mappings))
        return [*map(type, self.owners)], [*chain.from_iterable(mappings)], [*values]

    def _describe(self, value: Any) -> Hashable:
        """What tells a value from another, of tensors the kind alone."""
        if isinstance(value, Tensor) and value.layout is torch.strided:
            self.tensors.append(value)
            return type(value), value.shape, value.stride(), value.dtype, value.device
        if isinstance(value, dict):
            self.mappings.append(value)
            return self._describe_all(value)
        if isinstance(value, nn.Module):
            place = self._places.setdefault(id(value), len(self._places))
            is_new = place == len(self._places) - 1
            return self._describe_owner(value) if is_new else place
        if isinstance(value, LISTED):
            self.has_lists |= not isinstance(value, tuple)
            return type(value), self._describe_all(dict(enumerate(value)))
        if is_dataclass(value) and not isinstance(value, type):
            return self._describe_owner(value)
        return Itself(value)

    def _describe_owner(self, value: Any) -> Hashable:
        """The type and the attributes of what has some."""
        self.owners.append(value)
        return type(value), self._describe_all(vars(value))

    def _describe_all(self, values: dict[Any, Any]) -> Hashable:
        """What is in a dictionary, but for what is empty, as most of a module's is."""
        self.empty += [each for each in values.values() if each.__class__ in EMPTY and not each]
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


def is_view(tensor: Tensor, known: Tensor) -> bool:
    """Whether a tensor shows the same memory, in the same way, as a known one of torch's type."""
    return type(known) is Tensor and tensor.dtype is known.dtype and tensor.is_set_to(known)


def bits(tensor: Tensor) -> Tensor:
    """The memory of a tensor as integers, of 64 bits where possible.

    These compare in 0.6 of the time of floats, and what is not a number equals itself.
    """
    tensor, size = tensor.detach(), tensor.element_size()
    if type(tensor) is not Tensor or not tensor.is_contiguous():
        return tensor
    fits = tensor.storage_offset() * size % 8 == tensor.numel() * size % 8 == 0
    return tensor.view(-1).view(torch.int64 if fits else torch.uint8)
