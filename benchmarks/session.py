"""What benchmarks share: their options, and runs that go on where they stopped."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.console import Console

from benchmarks.precision import PRECISIONS, Precision, choose
from benchmarks.results import Key, Report, describe_environment
from benchmarks.roofline import Machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCRATCH = ROOT / "outputs" / "benchmarks"
"""Where quick runs write."""

Tell = Callable[[str], None]


class Case(Protocol):
    """A group of measurements, which take turns."""

    @property
    def keys(self) -> list[Key]:
        """What results know it by."""
        ...


R = TypeVar("R", bound=Report)
C = TypeVar("C", bound=Case)


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny flows, small batches: seconds")
    add("--precision", nargs="+", choices=PRECISIONS, help="by default those of the device")
    add("--batch", type=int, nargs="+", help="batch sizes")
    add("--repeats", type=int, help="repetitions, which take turns")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, help="number of CPU threads; by default torch's")
    add("--output", type=Path, help="folder of the results: benchmarks/results")
    return parser


def run(
    kind: type[R],
    options: argparse.Namespace,
    make_cases: Callable[[argparse.Namespace, tuple[Precision, ...]], Iterable[C]],
    measure: Callable[[R, C, torch.device, Tell], None],
) -> R:
    """Measure, show, and write a file after every case; those that are there are kept.

    Args:
        kind: Of the results.
        options: Of the command line.
        make_cases: What to measure in some precisions.
        measure: Measures a case, and adds what it finds to the results.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    output = options.output or (SCRATCH if options.quick else RESULTS)
    with console.status("measuring the machine"):
        results, precisions = begin(kind, options, device, output)
    for case in make_cases(options, precisions):
        if results.has(case.keys):
            console.print(f"{case}: measured before")
            continue
        results.forget(case.keys)  # of some of its precisions: they take turns with the others
        with console.status(str(case)) as status:
            measure(results, case, device, status.update)
        results.write(output)
        console.print(f"{case}: done")
    show(results, console)
    console.print(str(results.write(output)))
    return results


def begin(
    kind: type[R], options: argparse.Namespace, device: torch.device, output: Path
) -> tuple[R, tuple[Precision, ...]]:
    """The results of the same code on the same machine so far, and the precisions to measure."""
    names = options.precision or (["float32"] if options.quick else [*PRECISIONS])
    precisions, notes = choose(names, device)
    results = kind(describe_environment(device), Machine({}, {}))
    path = results.path(output)
    if path.is_file() and place(kind.read(path)) == place(results):
        results = kind.read(path)
    if not {each.name for each in precisions} <= {*results.machine.rate}:
        few: dict[str, Any] = {"sizes": (8, 16), "largest": 256} if options.quick else {}
        results.machine = Machine.measure(device, precisions, **few)
    results.notes += [note for note in notes if note not in results.notes]
    return results, precisions


def place(results: Report) -> dict[str, Any]:
    """Where and with what results were made; how busy the machine was may differ."""
    return {name: value for name, value in results.environment.items() if name != "load"}


def show(results: Report, console: Console) -> None:
    """Print the table, and what it is to be held against."""
    console.print(results.table())
    for name, rate in results.machine.rate.items():
        console.print(f"{name} products: {rate / 1e9:,.1f} GFLOP/s")
    for size, rate in results.machine.bandwidth.items():
        console.print(f"copies of {size} MB read and written: {rate / 1e9:,.1f} GB/s")
    for line in (*results.remarks(), *results.notes):
        console.print(line)
