"""Shows a calibration while it runs, and what it found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table

from tarflow.sampling.plan import Measurement, Plan

COLUMNS = ("transform", "decoder", "passes", "largest residual", "ms", "against sequential")


@dataclass(frozen=True)
class PlanTable:
    """Shows measurements, and what is being measured."""

    console: Console = field(default_factory=Console)

    @contextmanager
    def measuring(self) -> Iterator[Callable[[str], None]]:
        """As long as it goes on, show what is measured, by what is yielded."""
        with self.console.status("calibrating") as status:
            yield lambda text: status.update(f"measuring {text}")

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
        self.console.print(
            f"a batch takes {plan.seconds:.3f} s by the plan, {plan.sequential_seconds:.3f} s"
            f" sequentially: {plan.ratio:.2f} x"
        )


def _cells(measurement: Measurement, sequential: float) -> tuple[str, ...]:
    """A row of the table."""
    window = getattr(measurement.decoder, "window", None)
    kind = type(measurement.decoder).__name__.lower()
    head = (str(measurement.depth), kind if window is None else f"window {window}")
    if measurement.seconds == torch.inf:
        return (*head, "", "", "", "given up: over twice as slow")
    milliseconds, factor = 1000 * measurement.seconds, sequential / measurement.seconds
    residual = f"{measurement.residual:.1e}"
    return (*head, str(measurement.passes), residual, f"{milliseconds:.1f}", f"{factor:.2f} x")
