"""Shows a calibration while it runs, and what it found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table

from tarflow.sampling.plan import Measurement, Plan

COLUMNS = ("transform", "decoder", "passes", "largest residual", "ms", "against sequential")

WAYS = ("precision", "decoders", "deviation", "s", "against exact sequential")


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
        where = f"{measurement.precision}, " if measurement.precision else ""
        told = f"{where}transform {measurement.depth}: {measurement.decoder}: {result}"
        self.console.print(told)

    def print(self, plan: Plan) -> None:
        """Show the tables of all results, those that were picked marked.

        Where the precision was chosen, one has the transforms in that, one the whole samples.
        """
        chosen = plan.conditions.dtype
        place = f"batches of {plan.conditions.batch_size}"
        table = _table(place if plan.accepted is None else f"{place}, in {chosen}", COLUMNS)
        measurements = [m for m in plan.measurements if m.precision in ("", chosen)]
        for measurement in measurements:
            sequential = next(m for m in measurements if m.depth == measurement.depth)
            picked = plan.decoder.at(measurement.depth) == measurement.decoder
            cells = _cells(measurement, sequential.seconds)
            table.add_row(*cells, style="bold green" if picked else "")
        self.console.print(table)
        if plan.accepted is not None:
            self._print_trials(plan, plan.accepted)
        self.console.print(
            f"a batch takes {plan.seconds:.3f} s by the plan, {plan.sequential_seconds:.3f} s"
            f" sequentially: {plan.ratio:.2f} x"
        )

    def _print_trials(self, plan: Plan, accepted: float) -> None:
        """Show what whole samples took in every precision, and how far they were off."""
        table = _table(f"samples that may deviate by {accepted:.1e}", WAYS)
        for trial in plan.trials:
            own = (trial.precision, trial.decoder) == (plan.conditions.dtype, plan.decoder)
            kinds = " ".join(str(getattr(d, "window", 1)) for d in trial.decoder.decoders)
            factor = f"{plan.sequential_seconds / trial.seconds:.2f} x"
            numbers = (f"{trial.deviation:.1e}", f"{trial.seconds:.3f}", factor)
            style = "bold green" if own else ""
            table.add_row(trial.precision, f"windows {kinds}", *numbers, style=style)
        self.console.print(table)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    """A table without rows, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right")
    return table


def _cells(measurement: Measurement, sequential: float) -> tuple[str, ...]:
    """A row of the table."""
    window = getattr(measurement.decoder, "window", None)
    kind = type(measurement.decoder).__name__.lower()
    head = (str(measurement.depth), kind if window is None else f"window {window}")
    if measurement.seconds == torch.inf:
        return (*head, "", "", "", "given up: over twice as slow")
    milliseconds, factor = 1000 * measurement.seconds, sequential / measurement.seconds
    known = measurement.residual == measurement.residual
    residual = f"{measurement.residual:.1e}" if known else "not checked"
    return (*head, str(measurement.passes), residual, f"{milliseconds:.1f}", f"{factor:.2f} x")
