"""Many samples, drawn into a folder by one process or several; a killed run goes on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.sample_shards import join
from tarflow.sampling.sampler import Sampler
from tarflow.sampling.shared_run import SharedRun


@dataclass(frozen=True)
class SampleRun(SharedRun):
    """Draws samples into a folder; see `SharedRun` for its other attributes."""

    sampler: Sampler = field(kw_only=True)

    def files(self, request: Mapping[str, Any]) -> list[Path]:
        """What this run made of its samples for a request; empty where that is to be done."""
        return [] if self.folder.changes(self.settings) else self.folder.files(request)

    def panels(self, count: int) -> dict[str, Tensor]:
        """Pixels of the first samples under the title of each panel, drawn and denoised.

        Raises:
            ConfigurationError: It is to be none of them.
        """
        if count < 1:
            raise ConfigurationError(f"grid_samples {count} must be at least 1")
        batches = self.folder.shards.read(range(min(count, self.count)))
        found = join(batches, self.sampler.panels)
        return {name: torch.from_numpy(pixels) for name, pixels in found.items()}

    def pixels(self, description: str) -> Iterator[Tensor]:
        """Pixels of all samples in order, a shard at a time, under a progress bar."""
        total = sum(held.start < self.count for held in self.folder.shards.found())
        batches = self.folder.shards.read(range(self.count))
        for batch in track(batches, description, total):
            yield torch.from_numpy(batch[self.sampler.panels[-1]])

    @property
    def certificates(self) -> Certificates:
        """Those of all samples."""
        return self.sampler.certificates.join(self.folder.shards.read(range(self.count)))
