"""Reading a part of a data set in its order, ahead of whoever uses it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from tarflow.arguments import check_integer
from tarflow.data.loading.batches import Batch, Readable, collate
from tarflow.errors import DataError


class ReadAhead:
    """Reads batches of a part, while others are used, in processes of its own.

    What is asked for next is taken to be as far on as it was the last time, so that processes
    which share a part read their shares ahead; where it is not, the workers begin anew there.
    An example that cannot be read has the index `UNREADABLE`, and another one stands in for it.

    Args:
        part: The part of a data set.
        num_workers: Number of these processes; with 0 a batch is read as it is asked for.

    Raises:
        DataError: The number of workers is below 0.
    """

    def __init__(self, part: Any, num_workers: int = 0):
        self.part = part
        self.num_workers = check_integer("num_workers", num_workers, 0, DataError)
        self._last: range | None = None
        self._coming: list[range] = []
        self._batches: Iterator[Batch] = iter(())

    def __call__(self, indices: range) -> Batch:
        """The examples of some indices, in their order.

        Raises:
            DataError: No example of the part can be read.
        """
        if not self.num_workers:
            return collate(Readable(self.part).__getitems__(indices))
        if self._coming[:1] != [indices]:
            self._begin(indices)
        self._last = self._coming.pop(0)
        return next(self._batches)

    def _begin(self, indices: range) -> None:
        """Begin anew with some indices."""
        step = indices.start - self._last.start if self._last else 0
        starts = range(indices.start, len(self.part), max(step, len(indices)))
        rest = [range(i, min(i + len(indices), len(self.part))) for i in starts[1:]]
        self._coming = [indices, *rest]
        batches: Any = list(self._coming)  # ranges serve where lists are announced
        self._batches = iter(
            DataLoader(
                Readable(self.part),
                batch_sampler=batches,
                collate_fn=collate,
                num_workers=self.num_workers,
                generator=torch.Generator(),  # the global one is not the reader's to draw from
            )
        )
