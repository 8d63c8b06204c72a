"""Many samples, drawn into a folder by one process or several; a killed run goes on."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.machine.processes import Process
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.sample_folder import SampleFolder
from tarflow.sampling.sample_shards import SampleShards, join
from tarflow.sampling.sampler import Sampler
from tarflow.sampling.shared_run import SharedRun


@dataclass(frozen=True)
class SampleRun:
    """Draws samples batch by batch into a folder, as `SharedRun` does.

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
    def shared(self) -> SharedRun:
        """What draws the samples into the folder."""
        settings = {**self.origin, **self.sampler.settings}
        return SharedRun(self.folder, settings, self.num_samples, self.batch_size, self.process)

    def files(self, request: Mapping[str, Any]) -> list[Path]:
        """What this run made of its samples for a request; empty where that is to be done."""
        return [] if self.folder.changes(self.shared.settings) else self.folder.files(request)

    def opened(self, overwrite: bool = False) -> AbstractContextManager[None]:
        """Make the folder ready; see `SharedRun.opened`."""
        return self.shared.opened(overwrite, self.sampler.bytes_per_sample)

    def draw(self) -> None:
        """Draw what is missing of this process's share; see `SharedRun.fill`."""
        self.shared.fill("sampling", self.sampler)
        if not self.process.leads:
            print(f"process {self.process.rank} has drawn its share: process 0 makes the files")

    def panels(self, count: int) -> dict[str, Tensor]:
        """Pixels of the first samples under the title of each panel, drawn and denoised.

        Raises:
            ConfigurationError: It is to be none of them.
        """
        if count < 1:
            raise ConfigurationError(f"grid_samples {count} must be at least 1")
        batches = self.shards.read(range(min(count, self.num_samples)))
        found = join(batches, self.sampler.panels)
        return {name: torch.from_numpy(pixels) for name, pixels in found.items()}

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
