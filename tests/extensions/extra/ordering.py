"""An ordering that no reversal makes."""

from collections.abc import Sequence
from dataclasses import dataclass

from tarflow import Ordering


@dataclass(frozen=True)
class EvenThenOdd(Ordering):
    """The even positions, then the odd ones; the other way round in every second transform."""

    def __call__(self, index: int, length: int) -> Sequence[int]:
        even, odd = list(range(0, length, 2)), list(range(1, length, 2))
        return odd + even if index % 2 else even + odd
