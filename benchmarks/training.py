"""Compares ways to train: as published code does, and as the package does.

    python benchmarks/training.py --quick            # some seconds, a tiny flow
    python benchmarks/training.py                    # two CPU cores: some minutes
    python benchmarks/training.py --device cuda      # all that a GPU machine is to measure

Every mode trains a flow of the same fresh weights, in one process, in blocks of steps that take
turns. On a CPU the flow is 256 wide, with 4 transforms of 4 layers over 64 patches; on a GPU it is
that of ImageNet 64: 768 wide, 8 transforms of 8 layers over 1,024 patches, in bfloat16. The batch
is 32, and halved where a mode runs out of memory.

The baseline is in training_baseline.py; how the package trains in trainer.py; its modes in
training_cases.py; the peak of memory in memory.py; the share of a step that waits for data in
loading.py. Model FLOP utilization (MFU) is what the model needs to compute
(training_measuring.py), in the time of a step, of the best rate of matrix products that the
machine was measured to reach in the same precision.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # for checkouts that are not installed

from benchmarks.loading import Loading, measure_loading, sources
from benchmarks.measuring import Tell
from benchmarks.results import describe_environment
from benchmarks.sampling import ROOT, SLOW, measure_machine
from benchmarks.trainer import PRECISIONS
from benchmarks.training_cases import MODES, Case, Model
from benchmarks.training_measuring import measure_what_fits
from benchmarks.training_plot import draw
from benchmarks.training_results import TrainingMeasurement, TrainingResults

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in PRECISIONS}
QUICK = Model(8, 2, num_transforms=2, num_layers=1, model_dim=64)
MODELS = {
    "cpu": Model(32, 4, num_transforms=4, num_layers=4, model_dim=256),
    "cuda": Model(64, 2, num_transforms=8, num_layers=8, model_dim=768),
}
"""For each type of device, what is trained on it."""


def main(arguments: Sequence[str] | None = None) -> TrainingResults:
    """Measure, show, and write a file and a picture."""
    options = read_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    with console.status("measuring the machine"):
        dtypes = [DTYPES[name] for name in options.dtype]
        machine = measure_machine(device, dtypes, options.quick)
    results = TrainingResults(describe_environment(device), machine)
    for case in make_cases(options, results):
        with console.status(str(case)) as status:
            found, notes = measure_what_fits(case, options.mode, machine, device, status.update)
            results.measurements += found
            results.notes += notes
            results.loading += measure_waits(case, found, device, status.update)
    show(results, console)
    write(results, options, console)
    return results


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny flow, a small batch, few steps")
    add("--batch", type=int, nargs="+", help="batch sizes: 32")
    add("--dtype", nargs="+", choices=sorted(DTYPES), help="precisions; by default the device's")
    add("--mode", nargs="+", choices=sorted(MODES), default=list(MODES), help="ways to train")
    add("--repeats", type=int, help="blocks of steps of each mode: 7")
    add("--steps", type=int, help="steps in a block: 8")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, help="number of CPU threads; by default torch's")
    add("--output", type=Path, help="folder for the file and the picture")
    options = parser.parse_args(arguments)
    both = ["float32", "bfloat16"] if torch.device(options.device).type == "cpu" else ["bfloat16"]
    options.dtype = options.dtype or (["float32"] if options.quick else both)
    options.batch = options.batch or [4 if options.quick else 32]
    options.repeats = options.repeats or (2 if options.quick else 7)
    options.steps = options.steps or (2 if options.quick else 8)
    return options


def make_cases(options: argparse.Namespace, results: TrainingResults) -> list[Case]:
    """What to measure; precisions that are slow here are left out unless asked for alone."""
    model = QUICK if options.quick else MODELS[torch.device(options.device).type]
    cases = []
    for name in options.dtype:
        share = results.machine.share(DTYPES[name])
        if share < SLOW and options.dtype != [name]:
            results.notes.append(
                f"{name} was left out: matrix products reach {100 * share:.1f} % of float32's rate"
                f" here, less than {100 * SLOW:.0f} %; --dtype {name} measures it"
            )
            continue
        for batch_size in options.batch:
            cases.append(Case(model, batch_size, DTYPES[name], options.repeats, options.steps))
    return cases


def measure_waits(
    case: Case, found: list[TrainingMeasurement], device: torch.device, tell: Tell
) -> list[Loading]:
    """How long a step of a case waits for images of every source, in the fastest mode."""
    case = replace(case, batch_size=found[0].batch_size)  # what fits into memory
    fastest = min(found[1:], key=lambda each: each.median)
    steps = case.repeats * case.steps
    with sources(case.model.length, max(1024, 2 * case.batch_size)) as all_sources:
        waits = []
        for source in all_sources:
            tell(f"{case}: waiting for {source.name}")
            waits.append(measure_loading(source, fastest.mode, case, device, steps))
    return waits


def show(results: TrainingResults, console: Console) -> None:
    """Print the table, and what it is to be held against."""
    console.print(results.table())
    for name, rate in results.machine.rate.items():
        console.print(f"{name.removeprefix('torch.')} products: {rate / 1e9:,.1f} GFLOP/s")
    for line in (*results.loading, *results.notes):
        console.print(str(line))


def write(results: TrainingResults, options: argparse.Namespace, console: Console) -> None:
    """Write the file and the picture."""
    scratch = ROOT / "outputs" / "benchmarks" if options.quick else None
    output = options.output or scratch
    path = results.write(output or ROOT / "benchmarks" / "results")
    picture = (output or ROOT / "docs" / "images") / "training.png"
    draw(results, picture)
    console.print(f"{path}\n{picture}")


if __name__ == "__main__":
    main()
