"""What sampling measured of itself: a certificate for every sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tarflow.flows.decoding import Decoder


@dataclass(frozen=True)
class TransformReport:
    """How one transform of a batch was inverted.

    Attributes:
        decoder: How.
        residual: Per example, a backward error: the data is exactly that of a noise which differs
            nowhere by more. Measured in the precision of the flow's weights; not a number where
            decoding in less was not checked.
        iterations: Number of passes that each example took part in unfinished.
        passes: Number of passes of the batch.
        non_finite: Per example, the number of drafts that were thrown away for not being finite.
        redone: Examples that were computed again in the precision of the flow's weights, because
            in a lower one they missed the tolerance or were not finite.
        exact: Whether all was computed in that precision, one position after the other.
    """

    decoder: Decoder
    residual: Float[Tensor, " batch"]
    iterations: Int[Tensor, " batch"]
    passes: int
    non_finite: Int[Tensor, " batch"]
    redone: Bool[Tensor, " batch"]
    exact: bool

    @property
    def certified(self) -> Bool[Tensor, " batch"]:
        """Examples whose residual is known, and within the tolerance."""
        return self.residual <= self.decoder.tolerance


@dataclass(frozen=True)
class SamplingReport:
    """How a batch was sampled: a report for each transform, that nearest the noise first.

    Attributes:
        transforms: The reports.
    """

    transforms: tuple[TransformReport, ...]

    @property
    def residual(self) -> Float[Tensor, "transforms batch"]:
        """Backward error of each transform and example."""
        return torch.stack([report.residual for report in self.transforms])

    @property
    def certified(self) -> Bool[Tensor, " batch"]:
        """Examples that every transform certifies."""
        return torch.stack([report.certified for report in self.transforms]).all(dim=0)

    @property
    def redone(self) -> Bool[Tensor, " batch"]:
        """Examples that some transform computed again in full precision."""
        return torch.stack([report.redone for report in self.transforms]).any(dim=0)

    @classmethod
    def cat(cls, reports: Sequence["SamplingReport"]) -> "SamplingReport":
        """One report for several batches that were sampled in the same way."""
        return cls(
            tuple(_cat(parts) for parts in zip(*(r.transforms for r in reports), strict=True))
        )

    def __str__(self) -> str:
        """A line for each transform."""
        return "\n".join(
            f"transform {index} from the noise: {report.decoder}, {report.passes} passes,"
            f" largest residual {_largest(report.residual):.1e},"
            f" {int(report.certified.sum())} of {len(report.residual)} certified,"
            f" {int(report.redone.sum())} redone, {int(report.non_finite.sum())} non-finite drafts"
            for index, report in enumerate(self.transforms)
        )


def _largest(residual: Float[Tensor, " batch"]) -> float:
    """The largest residual of a batch; that of an empty one is none."""
    return float(residual.max()) if len(residual) else 0.0


def _cat(parts: Sequence[TransformReport]) -> TransformReport:
    """Join the reports of one transform."""
    return TransformReport(
        parts[0].decoder,
        torch.cat([part.residual for part in parts]),
        torch.cat([part.iterations for part in parts]),
        sum(part.passes for part in parts),
        torch.cat([part.non_finite for part in parts]),
        torch.cat([part.redone for part in parts]),
        all(part.exact for part in parts),
    )
