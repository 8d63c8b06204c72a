"""Shows a calibration while it runs, and what it found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.status import Status
from rich.table import Table

from tarflow.flows.decoding import Decoder
from tarflow.sampling.plan import Measurement, Plan

COLUMNS = ("transform", "decoder", "passes", "largest residual", "ms", "against sequential")


@dataclass
class PlanTable:
    """Collects measurements, and tells what is being measured.

    Attributes:
        console: Where to.
    """

    console: Console = field(default_factory=Console)
    _status: Status | None = None

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Show what is measured, as long as it goes on."""
        with self.console.status("calibrating") as self._status:
            yield
        self._status = None

    def tell(self, text: str) -> None:
        """Show what is measured next."""
        if self._status is not None:
            self._status.update(f"measuring {text}")

    def show(self, measurement: Measurement) -> None:
        """Show a result at once, for a calibration may take long."""
        taken = f"{1000 * measurement.seconds:.1f} ms, {measurement.passes} passes"
        result = taken if measurement.seconds < torch.inf else "over twice as slow, given up"
        self.console.print(f"transform {measurement.depth}: {measurement.decoder}: {result}")

    def print(self, plan: Plan) -> None:
        """Show the table of all results, those that were picked marked."""
        table = Table(title=f"batches of {plan.conditions.batch_size}", title_justify="left")
        for index, column in enumerate(COLUMNS):
            table.add_column(column, justify="left" if index < 2 else "right")
        for measurement in plan.measurements:
            sequential = next(m for m in plan.measurements if m.depth == measurement.depth)
            picked = plan.decoder.at(measurement.depth) == measurement.decoder
            cells = _cells(measurement, sequential.seconds)
            table.add_row(*cells, style="bold green" if picked else "")
        self.console.print(table)
        ratio = plan.sequential_seconds / plan.seconds
        self.console.print(
            f"a batch takes {plan.seconds:.3f} s by the plan, {plan.sequential_seconds:.3f} s"
            f" sequentially: {ratio:.2f} x"
        )


def _cells(measurement: Measurement, sequential: float) -> Sequence[str]:
    """A row of the table."""
    name = _name(measurement.decoder)
    if measurement.seconds == torch.inf:
        return (str(measurement.depth), name, "", "", "", "given up: over twice as slow")
    return (
        str(measurement.depth),
        name,
        str(measurement.passes),
        f"{measurement.residual:.1e}",
        f"{1000 * measurement.seconds:.1f}",
        f"{sequential / measurement.seconds:.2f} x",
    )


def _name(decoder: Decoder) -> str:
    """A decoder in a word or two."""
    window = getattr(decoder, "window", None)
    return type(decoder).__name__.lower() if window is None else f"window {window}"
