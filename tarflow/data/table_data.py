"""What every data set of rows of a table provides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.arguments import check_instance
from tarflow.data.divided_data import DividedData
from tarflow.data.loading.batches import Example
from tarflow.flows.table_columns import TableColumns


class Rows(Dataset):
    """Rows of a table in memory, conditioned on nothing.

    Args:
        values: All rows, as numbers.
    """

    def __init__(self, values: Float32[Tensor, "rows columns"]):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Example:
        return self.values[index], {}

    def __getitems__(self, indices: list[int]) -> list[Example]:
        """Read a batch with one indexing operation; the DataLoader looks for this method."""
        return [(row, {}) for row in self.values[torch.as_tensor(indices)]]


@dataclass(frozen=True)
class TableData(DividedData):
    """A table, divided into parts; see `DividedData` for its attributes.

    Its codec tells the columns and their supports; every part is a `Rows`.

    Raises:
        ConfigurationError: The codec is something else.

    Example:
        >>> from tarflow import Real
        >>> parts = {part: Rows(torch.randn(5, 2)) for part in ("train", "test")}
        >>> TableData.of("made up", parts, codec=TableColumns(["a", "b"], Real())).stored_shape
        (2,)
    """

    noun: ClassVar[str] = "rows"

    num_classes: int = 0

    def __post_init__(self):
        check_instance("codec", self.codec, TableColumns, "it tells the columns")

    @property
    def columns(self) -> TableColumns:
        """The columns."""
        assert isinstance(self.codec, TableColumns)
        return self.codec

    @property
    def stored_shape(self) -> tuple[int]:
        return (len(self.columns.names),)

    @property
    def determined(self) -> dict[str, Any]:
        names, supports = self.columns.names, self.columns.supports
        return {"dim": len(names), "names": names, "supports": supports}

    @property
    def rows(self) -> Mapping[str, Float32[Tensor, "rows columns"]]:
        """All rows of each part."""
        return {name: part.values for name, part in self.parts.items()}
