"""The codec of tables: rows of numbers, and what their columns are called."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from tarflow.arguments import keep
from tarflow.errors import ConfigurationError
from tarflow.flows.categories import Categories, check_names
from tarflow.flows.codec import Codec, Stored
from tarflow.flows.shapes import Examples
from tarflow.flows.supported import Supports, check_supports, columns_of
from tarflow.flows.supports import Integers, Support
from tarflow.randomness import RandomSource


@dataclass(frozen=True)
class TableColumns(Codec):
    """Rows of a table as vectors: numbers as they are, categories by their places in a list.

    Attributes:
        names: The name of each column.
        supports: Where their numbers may lie: one support for all, or one after the other.

    Raises:
        ConfigurationError: A name comes twice, or there are more or fewer than columns.

    Example:
        >>> from tarflow import Categories, Real
        >>> columns = TableColumns(["height", "eyes"], [Real(), Categories(["blue", "brown"])])
        >>> columns.table(torch.tensor([[1.75, 1], [1.5, 0]]))["eyes"].tolist()
        ['brown', 'blue']
    """

    names: Sequence[str]
    supports: Supports

    def __post_init__(self):
        keep(self, names=check_names("names", self.names))
        keep(self, supports=check_supports(self.supports))
        columns_of(self.supports, len(self.names))  # which counts them

    @property
    def each(self) -> dict[str, Support]:
        """The support of each column; one of several columns stands for all of them."""
        found = [
            one.support
            for one in columns_of(self.supports, len(self.names))
            for _ in range(one.count * one.support.size)
        ]
        return dict(zip(self.names, found, strict=True))

    def encode(
        self, stored: Stored, source: RandomSource = None, dtype: torch.dtype = torch.float32
    ) -> Examples:
        return stored.to(dtype)

    def decode(self, x: Examples) -> Stored:
        """The same rows; NaN where x is NaN."""
        return x

    def to_bytes(self, stored: Stored) -> UInt8[Tensor, "batch ..."]:
        """Refused: rows have no pictures.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"{self.words} has no pictures")

    def decoded_shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        return (len(self.names),)

    def compared(self, other: Codec) -> Iterator[tuple[str, object, object]]:
        theirs = other.each if isinstance(other, TableColumns) else {}
        yield "the columns", [*self.each], [*theirs]
        for name, own in self.each.items():
            yield f"column {name!r} within", own, theirs.get(name)

    @property
    def words(self) -> str:
        return f"a table of {len(self.names)} columns"

    def table(self, rows: Float[Tensor, "rows columns"]) -> dict[str, Shaped[np.ndarray, " rows"]]:
        """Rows as the table that they came from: columns by name, categories by theirs."""
        columns = rows.numpy(force=True).T
        supports = self.each.items()
        return {
            name: _named(column, support)
            for column, (name, support) in zip(columns, supports, strict=True)
        }


def _named(column: Float[np.ndarray, " rows"], support: Support) -> Shaped[np.ndarray, " rows"]:
    """A column of integers or names, where it is one; an integer that is not finite has none."""
    if not isinstance(support, Integers | Categories):
        return column
    known = np.isfinite(column)
    places = np.where(known, column, 0).astype(np.int64)
    if isinstance(support, Integers):
        return places if known.all() else column
    return np.where(known, np.array(support.names, dtype=object)[places], "")
