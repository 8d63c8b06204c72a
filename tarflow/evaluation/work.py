"""Values of many images, computed batch by batch: here and now, or shared and kept."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from tarflow.machine.processes import Process
from tarflow.sampling.drawing import batches_of
from tarflow.sampling.sample_folder import SampleFolder

Rows = dict[str, np.ndarray]
"""Columns with a value for each image."""

Compute = Callable[[range], Rows]
"""Computes the values of some images."""

POLL = 0.5
"""Seconds between two looks at what the other processes have written."""


class Work(ABC):
    """Has the values of many images computed, and shows how far it is."""

    @abstractmethod
    def do(self, title: str, count: int, batch_size: int, compute: Compute) -> Rows | None:
        """Compute the values of a number of images, in batches, under a title.

        Returns:
            All values in order; None where another process has them.
        """


class InMemory(Work):
    """Computes everything in this process, and keeps nothing."""

    def do(self, title: str, count: int, batch_size: int, compute: Compute) -> Rows | None:
        batches = []
        with _progress(title, count) as show:
            for batch in batches_of(count, batch_size):
                batches.append(compute(batch))
                show(batch.stop)
        return _joined(batches)


@dataclass(frozen=True)
class Kept(Work):
    """Keeps every batch in a file at once, so that killed work goes on and processes share it.

    Process r of W takes batches r, r + W, ...; no image counts twice, whatever the batch sizes of
    those that were at work. They need nothing in common but the folder.

    Attributes:
        directory: The folder.
        settings: All that the values depend on; values of others are removed.
        process: Which of the processes this is.
    """

    directory: Path
    settings: dict[str, Any]
    process: Process = Process()

    def do(self, title: str, count: int, batch_size: int, compute: Compute) -> Rows | None:
        folder, settings = SampleFolder(self.directory), json.loads(json.dumps(self.settings))
        folder.prepare()
        shards = folder.shards
        with self.process.claim(shards.directory), _progress(title, count) as show:
            if folder.changes(settings):
                folder.remove_samples()
            folder.keep_settings(settings)
            for held in shards.found():
                shards.remove_damaged(held)
            for number, batch in enumerate(batches_of(count, batch_size)):
                for gap in shards.missing(batch) if self.process.owns(number) else ():
                    shards.write(gap, compute(gap))
                show(shards.count(range(count)))
            while self.process.leads and shards.count(range(count)) < count:
                time.sleep(POLL)
                show(shards.count(range(count)))
        return _joined(list(shards.read(range(count)))) if self.process.leads else None


def _joined(batches: list[Rows]) -> Rows:
    """Columns of consecutive batches."""
    names = batches[0].keys() - {"indices"}
    return {name: np.concatenate([batch[name] for batch in batches]) for name in names}


@contextmanager
def _progress(title: str, count: int) -> Iterator[Callable[[int], None]]:
    """A bar, and what shows how many images are done."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=count)
        yield lambda done: progress.update(task, completed=done)
