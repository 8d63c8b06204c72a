"""Prints what `make demo` found: its last words."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main(likelihood_run: Path, samples_run: Path) -> None:
    """Read the reports of the two runs and show their numbers in one table."""
    likelihood_report = likelihood_run / "evaluation" / "likelihood" / "report.json"
    samples_report = samples_run / "evaluation" / "samples" / "report.json"
    bits = json.loads(likelihood_report.read_text())
    samples = json.loads(samples_report.read_text())["samples"]
    table = Table(title="tarflow on handwritten digits", title_justify="left")
    for column in ("", "mean", "±", ""):
        table.add_column(column, justify="right" if column else "left")
    mean, error = bits["bits_per_dim"]["mean"], bits["bits_per_dim"]["standard_error"]
    about = f"standard error over {bits['count']} held-out images"
    table.add_row("bits/dim", f"{mean:.3f}", f"{error:.3f}", about)
    for name, scores in samples.items():
        for key, digits in (("accuracy", 3), ("frechet_distance", 1)):
            mean, deviation = scores[key]["mean"], scores[key]["deviation"]
            spread = f"{deviation:.{digits}f}" if deviation else ""
            table.add_row(key.replace("_", " "), f"{mean:.{digits}f}", spread, name)
    console = Console()
    console.print(table)
    console.print(f"samples, denoised samples and real digits: {samples_run / 'samples/grid.png'}")
    console.print(f"samples while it trained: {samples_run / 'grids'}")
    console.print(f"likelihood of each image: {likelihood_report.parent / 'per_image.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
