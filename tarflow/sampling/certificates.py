"""Certificates of samples, as they are kept beside them."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from tarflow.flows.report import SamplingReport
from tarflow.sampling.sample_shards import join


@dataclass(frozen=True)
class Certificates:
    """What `SamplingReport` says of every sample, a row for each.

    Attributes:
        residual: Backward error of each transform, that nearest the noise first.
        certified: Whether all of these are within the tolerance.
        redone: Whether a transform was computed again in the precision of the flow's weights.
        why: What left a sample not finite, such as `denoising`; nothing where it is finite.
    """

    residual: np.ndarray
    certified: np.ndarray
    redone: np.ndarray
    why: np.ndarray

    @classmethod
    def of(
        cls, report: SamplingReport, denoised: Bool[Tensor, " batch"] | None = None
    ) -> "Certificates":
        """Read them from a report, and from which samples are finite after denoising."""
        steps, names = report.finite, [f"transform {i} from the noise" for i in range(len(report))]
        if denoised is not None:
            steps, names = (
                torch.cat([steps, denoised[None].to(steps.device)]),
                [*names, "denoising"],
            )
        first = steps.long().cumprod(dim=0).sum(dim=0)  # how many left it finite
        parts = (report.residual.T, report.certified, report.redone.any(dim=0), first)
        residual, certified, redone, first = (part.cpu().numpy() for part in parts)
        return cls(residual, certified, redone, np.array([*names, ""])[first])

    @classmethod
    def join(cls, batches: Iterable[Mapping[str, np.ndarray]]) -> "Certificates":
        """Put together those of several batches, which hold them among other arrays.

        Earlier versions kept no sample that was not finite, and told of none.
        """
        told = ({"why": np.full(len(batch["certified"]), ""), **batch} for batch in batches)
        return cls(**join(told, cls.__dataclass_fields__))

    @property
    def finite(self) -> np.ndarray:
        """Which samples are finite; the others are black in every file."""
        return self.why == ""

    def to_csv(self) -> str:
        """A table: `index`, `certified`, `redone`, residuals of transforms, `finite`, `why`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        residuals = [f"residual_{depth}" for depth in range(self.residual.shape[1])]
        writer.writerow(["index", "certified", "redone", *residuals, "finite", "why"])
        columns = (self.certified, self.redone, self.residual, self.why)
        for index, (certified, redone, residual, why) in enumerate(zip(*columns, strict=True)):
            errors = (f"{each:.3e}" for each in residual)
            writer.writerow([index, int(certified), int(redone), *errors, int(why == ""), why])
        return text.getvalue()

    def __str__(self) -> str:
        """One line about all of them."""
        counts = f"{self.certified.sum()} of {len(self.certified)} samples certified"
        known, lost = self.residual[self.finite], (~self.finite).sum()
        largest = f", largest residual {known.max():.1e}" if known.size else ""
        redone = f", {self.redone.sum()} redone in full precision" if self.redone.any() else ""
        told = f", {lost} not finite (black; certificates.csv tells why)" if lost else ""
        return f"{counts}{largest}{redone}{told}"
