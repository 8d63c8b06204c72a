"""Certificates of samples, as they are kept beside them."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from tarflow.flows.report import SamplingReport
from tarflow.sampling.sample_shards import join

Kind = TypeVar("Kind", bound="Certificates")


@dataclass(frozen=True)
class Certificates:
    """What is known of every sample, a row for each; subclasses know more than this one.

    Attributes:
        why: What left a sample not finite, such as `denoising`; nothing where it is finite.
    """

    why: np.ndarray

    @classmethod
    def join(cls: type[Kind], batches: Iterable[Mapping[str, np.ndarray]]) -> Kind:
        """Put together those of several batches, which hold them among other arrays.

        Earlier versions kept no sample that was not finite, and told of none.
        """
        told = ({"why": np.full(len(next(iter(b.values()))), ""), **b} for b in batches)
        return cls(**join(told, cls.__dataclass_fields__))

    @property
    def finite(self) -> np.ndarray:
        """Which samples are finite; the others are black in every file."""
        return self.why == ""

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """The cells of the table between the first column and the last two, by heading."""
        return {}

    def to_csv(self) -> str:
        """A table: `index`, what else is known, `finite`, `why`."""
        text = io.StringIO()
        writer, columns = csv.writer(text, lineterminator="\n"), self.columns
        writer.writerow(["index", *columns, "finite", "why"])
        rows = zip(*columns.values(), strict=True) if columns else ((),) * len(self.why)
        for index, (cells, why) in enumerate(zip(rows, self.why, strict=True)):
            writer.writerow([index, *cells, int(why == ""), why])
        return text.getvalue()

    @property
    def known(self) -> str:
        """What is said of all samples before those that are not finite."""
        return f"{len(self.why)} samples"

    def __str__(self) -> str:
        """One line about all of them."""
        lost = (~self.finite).sum()
        told = f", {lost} not finite (black; certificates.csv tells why)" if lost else ""
        return f"{self.known}{told}"


@dataclass(frozen=True)
class DecodingCertificates(Certificates):
    """What `SamplingReport` says of every sample of a flow.

    Attributes:
        residual: Backward error of each transform, that nearest the noise first.
        certified: Whether all of these are within the tolerance.
        redone: Whether a transform was computed again in the precision of the flow's weights.
    """

    residual: np.ndarray
    certified: np.ndarray
    redone: np.ndarray

    @classmethod
    def of(
        cls, report: SamplingReport, denoised: Bool[Tensor, " batch"] | None = None
    ) -> "DecodingCertificates":
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
        return cls(np.array([*names, ""])[first], residual, certified, redone)

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """`certified`, `redone`, and the residual of every transform."""
        certified, redone = (
            [str(int(truth)) for truth in column] for column in (self.certified, self.redone)
        )
        residuals = {
            f"residual_{depth}": [f"{each:.3e}" for each in column]
            for depth, column in enumerate(self.residual.T)
        }
        return {"certified": certified, "redone": redone, **residuals}

    @property
    def known(self) -> str:
        counts = f"{self.certified.sum()} of {len(self.certified)} samples certified"
        known = self.residual[self.finite]
        largest = f", largest residual {known.max():.1e}" if known.size else ""
        redone = f", {self.redone.sum()} redone in full precision" if self.redone.any() else ""
        return f"{counts}{largest}{redone}"
