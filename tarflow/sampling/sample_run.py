"""Many samples, drawn into a folder by one process or several; a killed run goes on."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn, track
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.machine.processes import Process
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.drawing import batches_of
from tarflow.sampling.gallery import Gallery
from tarflow.sampling.sample_folder import SampleFolder
from tarflow.sampling.sample_shards import SampleShards
from tarflow.sampling.sampler import Sampler

POLL = 0.5
"""Seconds between two looks at what the other processes have written."""

WAITING = (
    "waiting for the samples of the other processes. If one of them has ended, stop this one with"
    " ctrl-C and start them all again: what is drawn is kept"
)


@dataclass(frozen=True)
class SampleRun:
    """Draws samples batch by batch, each into a shard; process r takes batches r, r + W, ...

    Attributes:
        directory: The folder.
        origin: What tells the flow from others, such as `fingerprints`.
        sampler: Draws the samples.
        num_samples: Number of samples; the same run may be given more of them later.
        batch_size: Number of samples drawn, and written, at a time.
        process: Which of the processes that share the run this is.
    """

    directory: Path
    origin: Mapping[str, Any]
    sampler: Sampler
    num_samples: int
    batch_size: int
    process: Process = Process()

    @property
    def folder(self) -> SampleFolder:
        """What the run keeps."""
        return SampleFolder(self.directory)

    @property
    def shards(self) -> SampleShards:
        """The samples that were drawn."""
        return self.folder.shards

    @property
    def batches(self) -> list[range]:
        """The samples of every batch."""
        return batches_of(self.num_samples, self.batch_size)

    @property
    def num_drawn(self) -> int:
        """How many of the samples there are, drawn by whatever process, now or earlier."""
        return self.shards.count(range(self.num_samples))

    @property
    def settings(self) -> dict[str, Any]:
        """All that sample n depends on besides n."""
        return {**self.origin, **self.sampler.settings}

    def files(self, request: Mapping[str, Any]) -> list[Path]:
        """What this run made of its samples for a request; empty where that is to be done."""
        return [] if self.folder.changes(self.settings) else self.folder.files(request)

    @contextmanager
    def opened(self, overwrite: bool = False) -> Iterator[None]:
        """Make the folder ready, and keep a second process of this rank out of it meanwhile.

        Args:
            overwrite: Whether to replace samples of other settings, and what was made of them.
                Samples of the same settings are always kept.

        Raises:
            ConfigurationError: There are samples of other settings, or another process of this
                rank, or there is nothing to draw.
            DataError: The folder cannot be written, or the disk is too small.
        """
        missing = self.batches[-1].stop - self.num_drawn
        self.folder.prepare()
        with self.process.claim(self.shards.directory):
            if overwrite and self.folder.changes(self.settings):
                self._replace()
            self.folder.check_same(self.settings)
            with self.folder.saving():
                self.folder.keep_settings(self.settings)
            self.folder.check_space(missing * self.sampler.bytes_per_sample)
            yield

    def draw(self) -> None:
        """Draw what is missing of this process's share; the leading one waits for the others.

        Raises:
            ConfigurationError: Another run has replaced the samples meanwhile.
            DataError: A shard cannot be written; those before it are kept.
        """
        self._remove_damaged()
        if self.process.leads and self.num_drawn:
            print(f"going on from {self.num_drawn} samples in {self.shards.directory}")
        with self._progress() as (console, show):
            for batch in self._share():
                self._draw_missing(batch)
                show()
            if self.process.leads and self.num_drawn < self.num_samples:
                console.print(WAITING)
            while self.process.leads and self.num_drawn < self.num_samples:
                time.sleep(POLL)
                show()
        if not self.process.leads:
            print(f"process {self.process.rank} has drawn its share: process 0 makes the files")

    def panels(self, count: int) -> dict[str, Tensor]:
        """Pixels of the first samples under the title of each panel, drawn and denoised.

        Raises:
            ConfigurationError: It is to be none of them.
        """
        if count < 1:
            raise ConfigurationError(f"grid_samples {count} must be at least 1")
        batches = list(self.shards.read(range(min(count, self.num_samples))))
        return {
            name: torch.cat([torch.from_numpy(batch[name]) for batch in batches])
            for name in self.sampler.panels
        }

    def pixels(self, description: str) -> Iterator[Tensor]:
        """Pixels of all samples in order, a shard at a time, under a progress bar."""
        total = sum(held.start < self.num_samples for held in self.shards.found())
        batches = self.shards.read(range(self.num_samples))
        for batch in track(batches, description, total):
            yield torch.from_numpy(batch[self.sampler.panels[-1]])

    @property
    def certificates(self) -> Certificates:
        """Those of all samples."""
        return Certificates.join(self.shards.read(range(self.num_samples)))

    def _replace(self) -> None:
        """Remove what other settings left; who does not lead waits until that is done."""
        if self.process.leads:
            with self.folder.saving():
                Gallery(self.directory, self.sampler.codec).remove()
                self.folder.remove_samples()
                self.folder.keep_settings(self.settings)
            return
        print(f"waiting for process 0 to replace what is in {self.directory}")
        while self.folder.changes(self.settings):
            time.sleep(POLL)

    def _share(self) -> list[range]:
        """The batches of this process."""
        return [batch for i, batch in enumerate(self.batches) if self.process.owns(i)]

    def _remove_damaged(self) -> None:
        """Remove damaged shards that hold samples of this process's share."""
        for held in self.shards.found():
            batches = range(held.start // self.batch_size, (held.stop - 1) // self.batch_size + 1)
            if any(map(self.process.owns, batches)) and self.shards.remove_damaged(held):
                print(f"{self.shards.path(held)} was damaged: its samples are drawn again")

    def _draw_missing(self, batch: range) -> None:
        """Draw what no shard holds of a batch."""
        for indices in self.shards.missing(batch):
            arrays = self.sampler(indices)
            self.folder.check_same(self.settings)  # another run may have replaced them meanwhile
            with self.folder.saving():
                self.shards.write(indices, arrays)

    @contextmanager
    def _progress(self) -> Iterator[tuple[Console, Callable[[], None]]]:
        """A bar of the samples that all processes have drawn, and what brings it up to date."""
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.process.leads) as progress:
            task = progress.add_task("sampling", total=self.num_samples, completed=self.num_drawn)
            yield progress.console, lambda: progress.update(task, completed=self.num_drawn)
