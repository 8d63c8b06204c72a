"""What decoding gives: the data, and what was measured on the way."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tarflow.arguments import keep
from tarflow.errors import NonFiniteError
from tarflow.flows.shapes import PerExample


@runtime_checkable
class Tolerant(Protocol):
    """Anything with a largest residual that it allows: a decoder."""

    @property
    def tolerance(self) -> float: ...


@dataclass(frozen=True)
class SamplingReport:
    """How a batch was decoded: a row for each transform, that nearest the noise first.

    Indexing looks at one transform, by a report of one row.

    Attributes:
        decoder: How each transform was inverted.
        residual: A backward error: the data is exactly that of a noise which differs nowhere by
            more. Measured in the precision of the flow's weights; NaN where decoding in less was
            not checked.
        iterations: Number of passes in which each example was not finished.
        passes: Number of passes of the batch.
        non_finite: Number of drafts that were thrown away because they were not finite.
        redone: Examples that were computed again in the precision of the flow's weights, because
            in a lower one they missed the tolerance or were not finite.
        exact: Whether all was computed in that precision, one position after the other.
        finite: Examples whose data was finite after the transform; those that were not stay NaN.
    """

    decoder: tuple[Tolerant, ...] = ()
    residual: Float[Tensor, "transforms batch"] = torch.zeros(0, 0)
    iterations: Int[Tensor, "transforms batch"] = torch.zeros(0, 0, dtype=torch.long)
    passes: tuple[int, ...] = ()
    non_finite: Int[Tensor, "transforms batch"] = torch.zeros(0, 0, dtype=torch.long)
    redone: Bool[Tensor, "transforms batch"] = torch.zeros(0, 0, dtype=torch.bool)
    exact: tuple[bool, ...] = ()
    finite: Bool[Tensor, "transforms batch"] = torch.zeros(0, 0, dtype=torch.bool)

    def __post_init__(self):
        if self.finite.shape != self.residual.shape:  # where nobody looked
            keep(self, finite=torch.ones_like(self.residual, dtype=torch.bool))

    @property
    def certified(self) -> Bool[Tensor, " batch"]:
        """Examples whose residual is known, and within the tolerance of every transform."""
        tolerance = [[decoder.tolerance] for decoder in self.decoder]
        return (self.residual <= self.residual.new_tensor(tolerance).view(-1, 1)).all(dim=0)

    @property
    def transforms(self) -> tuple["SamplingReport", ...]:
        """A report of one row for each transform."""
        return tuple(self[index] for index in range(len(self)))

    def __len__(self) -> int:
        return len(self.decoder)

    def __getitem__(self, index: int) -> "SamplingReport":
        row = range(len(self))[index]
        return SamplingReport(*(column[row : row + 1] for column in vars(self).values()))

    @classmethod
    def stack(cls, reports: Sequence["SamplingReport"]) -> "SamplingReport":
        """One report for transforms that were inverted one after the other."""
        columns = zip(*(vars(each).values() for each in reports if len(each)), strict=True)
        joined: Any = (torch.cat(c) if isinstance(c[0], Tensor) else sum(c, ()) for c in columns)
        return cls(*joined)

    @classmethod
    def cat(cls, reports: Sequence["SamplingReport"]) -> "SamplingReport":
        """One report for several batches that were sampled in the same way."""
        columns = {name: [getattr(r, name) for r in reports] for name in vars(reports[0])}
        joined = {n: torch.cat(c, dim=1) for n, c in columns.items() if isinstance(c[0], Tensor)}
        passes = tuple(map(sum, zip(*columns["passes"], strict=True)))
        exact = tuple(map(all, zip(*columns["exact"], strict=True)))
        return replace(reports[0], passes=passes, exact=exact, **joined)

    def put(self, rows: Int[Tensor, " some"], again: "SamplingReport") -> "SamplingReport":
        """The same after some examples were redone."""
        return replace(
            self,
            residual=self.residual.index_copy(1, rows, again.residual),
            iterations=self.iterations.index_add(1, rows, again.iterations),
            passes=tuple(map(sum, zip(self.passes, again.passes, strict=True))),
            non_finite=self.non_finite.index_add(1, rows, again.non_finite),
            redone=self.redone.index_fill(1, rows, True),
            finite=self.finite.index_copy(1, rows, again.finite),
        )

    def __str__(self) -> str:
        """A line for each transform."""
        return "\n".join(
            f"transform {index} from the noise: {row.decoder[0]}, {row.passes[0]} passes,"
            f" largest residual {row._largest_residual:.1e},"
            f" {int(row.certified.sum())} of {row.residual.shape[1]} certified,"
            f" {int(row.redone.sum())} redone, {int(row.non_finite.sum())} non-finite drafts"
            f"{row._lost}"
            for index, row in enumerate(self.transforms)
        )

    @property
    def _largest_residual(self) -> float:
        """That of the examples that are finite."""
        known = self.residual[self.finite]
        return float(known.max()) if known.numel() else 0.0

    @property
    def _lost(self) -> str:
        """How many examples are not finite, where some are not."""
        lost = int((~self.finite).sum())
        return f", {lost} not finite" if lost else ""


@dataclass(frozen=True)
class Inverse:
    r"""What inverting a transform, or a flow, gives.

    Attributes:
        x: The data.
        log_det: $\log |\det dz/dx|$ at x of each example, in nats; of the guided map, if guided.
        report: What was measured on the way, a row for each transform that was decoded.
    """

    x: Tensor
    log_det: PerExample
    report: SamplingReport = SamplingReport()

    @property
    def finite(self) -> Bool[Tensor, " batch"]:
        """Examples that are finite."""
        return self.x.isfinite().flatten(1).all(dim=1)

    def marked(self) -> "Inverse":
        """The same with NaN for all of an example that is not finite: what follows keeps that."""
        finite = self.report.finite[0]
        x = self.x.where(finite.view(-1, *(1,) * (self.x.ndim - 1)), torch.nan)
        return replace(self, x=x, log_det=self.log_det.where(finite, torch.nan))

    def put(self, rows: Int[Tensor, " some"], again: "Inverse") -> "Inverse":
        """The same with some examples, redone, in place of theirs."""
        x = self.x.index_copy(0, rows, again.x)
        log_det = self.log_det.index_copy(0, rows, again.log_det)
        return Inverse(x, log_det, self.report.put(rows, again.report))


Blame = tuple[str, int | None]
"""Why an example is not finite, in words, and which transform did it, if one did."""

NAMED = 5
"""Examples that are not finite whose indices a warning tells."""


def tell_non_finite(finite: Bool[Tensor, " batch"], why: Callable[[int], Blame]) -> None:
    """Warn that some examples are not finite: how many, which are the first, and why that is.

    Raises:
        NonFiniteError: None of them is finite.
    """
    if finite.all():
        return
    rows = (~finite).nonzero().flatten().tolist()
    message, transform = why(rows[0])
    if len(rows) == len(finite):
        raise NonFiniteError(message, transform)
    first = ", ".join(map(str, rows[:NAMED])) + (" ..." if len(rows) > NAMED else "")
    warnings.warn(
        f"{len(rows)} of {len(finite)} examples are not finite and become NaN, those of index"
        f" {first}; the others are kept ({message})",
        RuntimeWarning,
        stacklevel=4,
    )
