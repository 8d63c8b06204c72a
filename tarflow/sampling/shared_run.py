"""Rows of many examples, computed into a folder by one process or several."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from tarflow.machine.files import check_writable
from tarflow.machine.processes import Process
from tarflow.sampling.drawing import batches_of
from tarflow.sampling.sample_folder import SampleFolder

POLL = 0.5
"""Seconds between two looks at what the other processes have written."""

WAITING = (
    "waiting for the other processes. If one of them has ended, stop this one with ctrl-C and"
    " start them all again: what is done is kept"
)


@dataclass(frozen=True)
class SharedRun:
    """Computes rows batch by batch, each into a shard; process r takes batches r, r + W, ...

    The processes need nothing in common but the folder. No row is computed twice, whatever the
    batch sizes of those that were at work.

    Attributes:
        settings: All that row n depends on besides n.
        count: Number of rows; the same run may be given more of them later.
        batch_size: Number of rows computed, and written, at a time.
        process: Which of the processes that share the run this is.
    """

    folder: SampleFolder
    settings: Mapping[str, Any]
    count: int
    batch_size: int
    process: Process = Process()

    def __post_init__(self):
        batches_of(self.count, self.batch_size)  # which checks them

    @property
    def num_done(self) -> int:
        """How many of the rows there are, computed by whatever process, now or earlier."""
        return self.folder.shards.count(range(self.count))

    @contextmanager
    def opened(self, overwrite: bool = False, row_bytes: int = 0) -> Iterator[None]:
        """Make the folder ready, and keep a second process of this rank out of it meanwhile.

        Args:
            overwrite: Whether to replace rows of other settings, and what was made of them. Rows
                of the same settings are always kept.
            row_bytes: Room on the disk that a row takes at least.

        Raises:
            ConfigurationError: There are rows of other settings, or another process of this rank.
            DataError: The folder cannot be written, or the disk is too small.
        """
        held = self.folder.shards.directory
        with self.folder.saving():
            check_writable(held)
        with self.process.claim(held):
            if overwrite and self.folder.changes(self.settings):
                self._replace()
            self.folder.check_same(self.settings)
            with self.folder.saving():
                self.folder.keep_settings(self.settings)
            self.folder.check_space((self.count - self.num_done) * row_bytes)
            yield

    def fill(self, title: str, compute: Callable[[range], Mapping[str, np.ndarray]]) -> None:
        """Compute what is missing of this process's share; the leading one waits for the others.

        Raises:
            ConfigurationError: Another run has replaced the rows meanwhile.
            DataError: A shard cannot be written; those before it are kept.
        """
        self._remove_damaged()
        leads, done = self.process.leads, self.num_done
        if leads and 0 < done < self.count:
            print(f"going on from {done} of {self.count} in {self.folder.shards.directory}")
        with progress(title, self.count, hidden=not leads) as show:
            for number, batch in enumerate(batches_of(self.count, self.batch_size)):
                if self.process.owns(number):
                    self._compute_missing(batch, compute)
                show(self.num_done)
            if leads and self.num_done < self.count:
                print(WAITING)
            while leads and self.num_done < self.count:
                time.sleep(POLL)
                show(self.num_done)

    def _replace(self) -> None:
        """Remove what other settings left; who does not lead waits until that is done."""
        if self.process.leads:
            with self.folder.saving():
                self.folder.remove_samples()
                self.folder.keep_settings(self.settings)
            return
        print(f"waiting for process 0 to replace what is in {self.folder.directory}")
        while self.folder.changes(self.settings):
            time.sleep(POLL)

    def _remove_damaged(self) -> None:
        """Remove damaged shards that hold rows of this process's share."""
        shards = self.folder.shards
        for held in shards.found():
            batches = range(held.start // self.batch_size, (held.stop - 1) // self.batch_size + 1)
            if any(map(self.process.owns, batches)) and shards.remove_damaged(held):
                print(f"{shards.path(held)} was damaged: its samples are drawn again")

    def _compute_missing(self, batch: range, compute: Callable) -> None:
        """Compute what no shard holds of a batch."""
        for indices in self.folder.shards.missing(batch):
            arrays = compute(indices)
            self.folder.check_same(self.settings)  # another run may have replaced them meanwhile
            with self.folder.saving():
                self.folder.shards.write(indices, arrays)


@contextmanager
def progress(title: str, total: int, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar, and what shows how much is done."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=hidden) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
