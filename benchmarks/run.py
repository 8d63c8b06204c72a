"""Runs all benchmarks on this machine, and brings docs/benchmarks.md up to date.

    python benchmarks/run.py --quick      # a minute: whether everything runs; a page in outputs/
    python benchmarks/run.py              # hours on two cores; goes on where it was stopped
    python benchmarks/run.py --page       # only the page, from benchmarks/results/

Each benchmark writes its file after every case. What is there of the same code on the same machine
is kept, so that a second run measures what is missing; delete the file to measure it again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for checkouts that are not installed

from benchmarks import sampling, training
from benchmarks.page import fill
from benchmarks.session import RESULTS, ROOT, SCRATCH, make_parser

STEPS = {
    "speed": (sampling, ("--compile",)),
    "peers": (sampling, ("--study", "peers")),
    "lengths": (sampling, ("--study", "lengths")),
    "training": (training, ()),
}
"""For each benchmark, its script and what that is told; training covers memory and loading."""


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measure, and return the files that were written: the page and its pictures."""
    options = read_options(arguments)
    folder = options.output or (SCRATCH if options.quick else RESULTS)
    for number, name in enumerate([] if options.page else options.only):
        script, told = STEPS[name]
        print(f"{name}: {number + 1} of {len(options.only)}", flush=True)
        told = () if options.quick and "--compile" in told else told  # which takes a minute
        script.main([*told, *passed_on(options), "--output", str(folder)])
    page = ROOT / "docs" / "benchmarks.md" if folder == RESULTS else folder / "benchmarks.md"
    written = fill(page, folder)
    print(*written, sep="\n")
    return written


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    return parser.parse_args(arguments)


def passed_on(options: argparse.Namespace) -> list[str]:
    """The options that all benchmarks have, as they were given."""
    words = ["--quick"] if options.quick else []
    for name in ("device", "threads", "repeats", "precision", "batch"):
        value = getattr(options, name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, values)]
    return words


if __name__ == "__main__":
    main()
