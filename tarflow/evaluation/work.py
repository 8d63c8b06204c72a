"""Values of many images, computed batch by batch: here and now, or shared and kept."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tarflow.machine.files import json_text
from tarflow.machine.processes import Process
from tarflow.sampling.drawing import batches_of
from tarflow.sampling.sample_folder import SampleFolder
from tarflow.sampling.sample_shards import join
from tarflow.sampling.shared_run import SharedRun, progress

Rows = dict[str, np.ndarray]
"""Columns with a value for each image."""

Compute = Callable[[range], Rows]
"""Computes the values of some images."""


class Work(ABC):
    """Has the values of many images computed, and shows how far it is.

    Attributes:
        num_workers: Number of processes that read images ahead of the computation.
    """

    num_workers: int = 0

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
        with progress(title, count) as show:
            for batch in batches_of(count, batch_size):
                batches.append(compute(batch))
                show(batch.stop)
        return join(batches)


@dataclass(frozen=True)
class Kept(Work):
    """Keeps every batch in a file at once, so that killed work goes on and processes share it.

    `SharedRun` tells how they share it.

    Attributes:
        settings: All that the values depend on; values of others are removed.
    """

    directory: Path
    settings: dict[str, Any]
    process: Process = Process()
    num_workers: int = 0

    def do(self, title: str, count: int, batch_size: int, compute: Compute) -> Rows | None:
        folder, settings = SampleFolder(self.directory), json.loads(json_text(self.settings))
        run = SharedRun(folder, settings, count, batch_size, self.process)
        with run.opened(overwrite=True):
            run.fill(title, compute)
        if not self.process.leads:
            return None
        rows = join(folder.shards.read(range(count)))
        del rows["indices"]
        return rows
