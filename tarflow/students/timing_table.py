"""Shows how long a student's samples take."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tarflow.students.timing import Timing

COLUMNS = ("steps", "passes", "samples at a time", "ms", "ms for each")


@dataclass(frozen=True)
class TimingTable:
    """Shows timings, and what is being timed."""

    console: Console = field(default_factory=Console)

    @contextmanager
    def measuring(self) -> Iterator[Callable[[str], None]]:
        """As long as it goes on, show what is timed, by what is yielded."""
        with self.console.status("timing") as status:
            yield lambda text: status.update(f"timing {text}")

    def print(self, timings: Sequence[Timing]) -> None:
        """Show the table, and what it is for."""
        table = Table(title="samples of the student", title_justify="left")
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for each in timings:
            milliseconds = 1000 * each.seconds
            times = (f"{milliseconds:.2f}", f"{milliseconds / each.batch_size:.3f}")
            table.add_row(str(each.steps), str(each.passes), str(each.batch_size), *times)
        self.console.print(table)
        self.console.print(
            "no plan is kept: a student decodes nothing, and another number of steps= gives"
            " other samples"
        )
