"""Orderings: in which order each transform of a flow reads a sequence."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from tarflow.registry import Part


@dataclass(frozen=True)
class Ordering(Part, ABC):
    """Gives each autoregressive transform an order of the positions."""

    @abstractmethod
    def __call__(self, index: int, length: int) -> Sequence[int]:
        """The positions 0 ... length - 1, in raster order, in the order that a transform reads.

        Transform 0 is nearest the data.
        """


@dataclass(frozen=True)
class Alternating(Ordering):
    """Forwards, backwards, forwards, ... (TarFlow, arXiv 2412.06329)."""

    def __call__(self, index: int, length: int) -> Sequence[int]:
        return range(length)[:: -1 if index % 2 else 1]


@dataclass(frozen=True)
class Raster(Ordering):
    """The same order for every transform, row by row."""

    def __call__(self, index: int, length: int) -> Sequence[int]:
        return range(length)
