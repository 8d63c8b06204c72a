"""Batches: examples as stored, what they are conditioned on, and which they are."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from tarflow.arguments import shown
from tarflow.errors import DataError
from tarflow.flows.context import Context

Example = tuple[Shaped[Tensor, "..."], Mapping[str, Any]]
"""What is stored, and the parts of its context by name: numbers or tensors."""

Draw = tuple[int, int]
"""Index of an example, and the seed of what is drawn as it is read."""

PADDING = -1
"""Stands for the index of an example that is there to fill a batch up, and does not count."""

UNREADABLE = -2
"""Stands for the index of an example that could not be read, which another one stands in for."""

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Some examples of a data set.

    Attributes:
        x: The examples as they are stored, such as bytes of pixels: a codec makes numbers of them.
        context: What each is conditioned on, such as its label; empty where there is nothing.
        index: The number of each in its data set; `PADDING` where an example does not count.
    """

    x: Shaped[Tensor, "batch ..."]
    context: Context
    index: Int64[Tensor, " batch"]

    def first(self, count: int) -> "Batch":
        """The first of the examples."""
        context = self.context.map(lambda rows: rows[:count])
        return Batch(self.x[:count], context, self.index[:count])


def collate(examples: Sequence[Any]) -> Batch:
    """Put examples together: of each what is stored, the parts of its context, and its index.

    Raises:
        DataError: Examples have no parts of a context by name, or not all the same.
    """
    stored, contexts, indices = zip(*examples, strict=True)
    first = contexts[0]
    for context, index in zip(contexts, indices, strict=True):
        if not isinstance(context, Mapping) or context.keys() != first.keys():
            raise DataError(
                f"example {index} has the context {shown(context)}, and the first of its batch"
                f" {shown(first)}: give all examples of a data set the same parts by name, such as"
                ' {"label": 3}, or {}'
            )
    parts = {name: _rows([context[name] for context in contexts]) for name in first}
    return Batch(default_collate(list(stored)), Context(**parts), torch.tensor(indices))


def read_batch(part: Dataset, indices: range) -> Batch:
    """Read some examples of a part of a data set, in their order."""
    return collate(Numbered(part).__getitems__(indices))


def _rows(values: list[Any]) -> Shaped[Tensor, "batch ..."]:
    """A part of a context; numbers of Python become float32 or int64."""
    rows = default_collate(values)
    return rows.float() if isinstance(values[0], float) else rows


class Wrapped(Dataset):
    """The examples of another data set, read in another way."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]


class Numbered(Wrapped):
    """Examples with their indices; the first example stands where there is padding."""

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        """Read examples at once, where the data set can; the DataLoader looks for this method."""
        present = Subset(self.dataset, [max(index, 0) for index in indices])
        examples = present.__getitems__(list(range(len(indices))))
        return [(*example, index) for example, index in zip(examples, indices, strict=True)]


class Readable(Numbered):
    """Examples with their indices; `UNREADABLE` and another example where one cannot be read."""

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, ...]]:
        try:
            return super().__getitems__(indices)
        except Exception:  # of whatever reads: told of one by one
            read = [self._attempt(index) for index in indices]
        given = (example for example in read if example)
        others = (self._attempt(index) for index in range(len(self)))
        stand_in = next(chain(given, filter(None, others)), None)
        if stand_in is None:
            raise DataError(f"none of {len(self)} examples can be read: the last message says why")
        marks = (UNREADABLE if index >= 0 else PADDING for index in indices)
        return [
            example or (*stand_in[:-1], mark) for example, mark in zip(read, marks, strict=True)
        ]

    def _attempt(self, index: int) -> tuple[Any, ...] | None:
        """An example, if it can be read."""
        try:
            return super().__getitems__([index])[0]
        except Exception as error:  # of whatever reads
            log.warning(f"example {index} is left out, since it cannot be read: {error}")
            return None


class Drawn(Wrapped):
    """Examples as a training run reads them, by index and seed.

    What they draw on the way, from torch's global generator, follows from the seed: of each where
    they are read one by one, of the first where a data set reads all of them at once.
    """

    def __getitems__(self, draws: Sequence[Draw]) -> list[tuple[Any, ...]]:
        size = len(draws) if _reads_at_once(self.dataset) else 1
        examples, numbered = [], Numbered(self.dataset)
        for start in range(0, len(draws), size):
            torch.default_generator.manual_seed(draws[start][1])
            piece = [index for index, _ in draws[start : start + size]]
            examples += numbered.__getitems__(piece)
        return examples


def _reads_at_once(dataset: Any) -> bool:
    """Whether a data set reads batches; a `Subset` has the method for it, and may still not."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return hasattr(dataset, "__getitems__")
