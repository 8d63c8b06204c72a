"""Certificates of samples, as they are kept beside them."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tarflow.flows.report import SamplingReport
from tarflow.sampling.sample_shards import join


@dataclass(frozen=True)
class Certificates:
    """What `SamplingReport` says of every sample, a row for each.

    Attributes:
        residual: Backward error of each transform, that nearest the noise first.
        certified: Whether all of these are within the tolerance.
        redone: Whether a transform was computed again in the precision of the flow's weights.
    """

    residual: np.ndarray
    certified: np.ndarray
    redone: np.ndarray

    @classmethod
    def of(cls, report: SamplingReport) -> "Certificates":
        """Read them from a report."""
        parts = (report.residual.T, report.certified, report.redone.any(dim=0))
        return cls(*(part.cpu().numpy() for part in parts))

    @classmethod
    def join(cls, batches: Iterable[Mapping[str, np.ndarray]]) -> "Certificates":
        """Put together those of several batches, which hold them among other arrays."""
        return cls(**join(batches, cls.__dataclass_fields__))

    def to_csv(self) -> str:
        """A table: `index`, `certified`, `redone`, and a residual for each transform."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        residuals = [f"residual_{depth}" for depth in range(self.residual.shape[1])]
        writer.writerow(["index", "certified", "redone", *residuals])
        rows = zip(self.certified, self.redone, self.residual, strict=True)
        for index, (certified, redone, residual) in enumerate(rows):
            writer.writerow([index, int(certified), int(redone), *(f"{r:.3e}" for r in residual)])
        return text.getvalue()

    def __str__(self) -> str:
        """One line about all of them."""
        counts = f"{self.certified.sum()} of {len(self.certified)} samples certified"
        redone = f", {self.redone.sum()} redone in full precision" if self.redone.any() else ""
        return f"{counts}, largest residual {self.residual.max():.1e}{redone}"
