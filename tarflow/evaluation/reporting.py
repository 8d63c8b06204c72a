"""Results of an evaluation: a table to read, a file for programs, and values for each image."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tarflow.evaluation.provenance import sha256_of
from tarflow.flows.checkpoint import WEIGHTS, description_of
from tarflow.machine.files import json_text, write_atomically

NORMAL = 1.959963984540054
"""Standard errors from the mean of a normal distribution to either end of its central 95 %."""

WIDTH = 120
"""Of tables that go to a file, which has no width of its own."""
SUMMARY = ("", "mean", "standard error", "95 % interval")
"""Headings of a table of means, whose rows are made by `summary_row`."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        name: What was measured, in one word.
        title: What was evaluated.
        columns: Headings of the table.
        rows: The table's cells.
        values: Everything there is to know about it.
        per_image: Columns with a value for each image.
        notes: What is to be said below the table.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    values: Mapping[str, Any]
    per_image: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def print(self) -> None:
        """Show the table."""
        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        console = Console()
        if not console.is_terminal:
            console.width = WIDTH
        console.print(table)
        for note in self.notes:
            print(note)

    def write(self, directory: Path, checkpoint: Path, baseline: Path | None = None) -> Path:
        """Write `report.json`, whose path is returned, and `per_image.csv` if images have values.

        What the folder holds of another model is kept, under another name.

        A value that is not finite, such as the mean of no images, is null there.

        Args:
            directory: Where to.
            checkpoint: The pretrained folder that was evaluated.
            baseline: The one that it was compared with, if any.
        """
        directory.mkdir(parents=True, exist_ok=True)
        _set_aside(directory, checkpoint)
        values = {**_identity("checkpoint", checkpoint), **self.values}
        if baseline is not None:
            values |= _identity("baseline", baseline)
        path = directory / "report.json"
        write_atomically(path, json_text(values))
        if self.per_image:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["index", *self.per_image])
            columns = zip(*self.per_image.values(), strict=True)
            writer.writerows([index, *row] for index, row in enumerate(columns))
            write_atomically(directory / "per_image.csv", text.getvalue())
        return path


def _set_aside(directory: Path, checkpoint: Path) -> None:
    """Keep the report of another model under the first digits of its hash."""
    path = directory / "report.json"
    try:
        before = json.loads(path.read_text()).get("checkpoint_sha256")
    except (FileNotFoundError, ValueError):  # there is none, or nothing to read in it
        return
    if before and before != _identity("checkpoint", checkpoint).get("checkpoint_sha256"):
        for old in (path, directory / "per_image.csv"):
            if old.exists():
                old.rename(old.with_name(f"{old.stem}_{before[:8]}{old.suffix}"))


def _identity(role: str, pretrained: Path) -> dict[str, str]:
    """Where weights were read, and what they were."""
    values, weights = {role: str(pretrained)}, pretrained / WEIGHTS
    if weights.is_file():
        values[f"{role}_weights"] = description_of(pretrained) or "not told by the file"
        values[f"{role}_sha256"] = sha256_of(weights)
    return values


def mean_and_error(values: Tensor) -> dict[str, Any]:
    """Mean, standard error and 95 % interval of independent values, summed in float64.

    The interval is that of the normal distribution, which means of many values have.
    """
    values = values.double()
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    mean = float(values.mean())
    interval = [mean - NORMAL * error, mean + NORMAL * error]
    return {"mean": mean, "standard_error": error, "interval_95": interval}


def summary_row(name: str, summary: Mapping[str, Any], sign: str = "") -> tuple[str, ...]:
    """A row of a table of means; with the sign + positive numbers carry one."""
    low, high = (f"{end:{sign}.4f}" for end in summary["interval_95"])
    error = f"{summary['standard_error']:.4f}"
    return (name, f"{summary['mean']:{sign}.4f}", error, f"{low} to {high}")


def mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    tensor = torch.tensor(values, dtype=torch.float64)
    deviation = float(tensor.std()) if len(values) > 1 else 0.0
    return {"mean": float(tensor.mean()), "deviation": deviation}


def spread(score: Mapping[str, float], form: str) -> str:
    """A mean in a format, with its deviation where there is one."""
    mean = f"{score['mean']:{form}}"
    return f"{mean} ± {score['deviation']:{form}}" if score["deviation"] else mean
