"""Prints what `make demo` found: its last words."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tarflow.evaluation.reporting import spread


def main(likelihood_run: Path, samples_run: Path) -> None:
    """Read the reports of the two runs and show their numbers in one table."""
    likelihood_report = likelihood_run / "evaluation" / "likelihood" / "report.json"
    samples_report = samples_run / "evaluation" / "samples" / "report.json"
    likelihood = json.loads(likelihood_report.read_text())
    samples = json.loads(samples_report.read_text())
    table = Table(title="tarflow on handwritten digits", title_justify="left")
    for column in ("", "bits/dim", "accuracy", "Fréchet distance"):
        table.add_column(column, justify="right" if column else "left")
    bits = likelihood["bits_per_dim"]
    name = f"likelihood of {likelihood['count']} held-out images"
    table.add_row(name, f"{bits['mean']:.3f} ± {bits['standard_error']:.3f}", "", "")
    for name, scores in samples["samples"].items():
        distance = spread(scores["pixels"]["frechet_distance"], ".1f")
        table.add_row(name, "", spread(scores["accuracy"], ".3f"), distance)
    Console(width=92).print(table)
    print("± is the standard error of bits/dim, and the deviation over", end=" ")
    print(f"{len(samples['seeds'])} seeds of {samples['num_samples']} samples.")
    print(f"pictures    {samples_run / 'samples' / 'grid.png'}")
    print(f"            {samples_run / 'grids'} (while it trained)")
    print(f"each image  {likelihood_report.parent / 'per_image.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
