"""Compares ways to sample: as published code does, sequentially, and by a calibrated plan.

    python benchmarks/sampling.py --quick       # some seconds, an untrained flow
    python benchmarks/sampling.py               # trains two flows first, unless they are kept

All ways decode the same noise with guidance 1, in one process, in repetitions that take turns. The
baseline is in baseline.py, the roofline in roofline.py, the flows in photographs.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # for checkouts that are not installed

from benchmarks import photographs
from benchmarks.measuring import TOLERANCE, Case, measure
from benchmarks.plot import draw
from benchmarks.results import Results, describe_environment
from benchmarks.roofline import SIZES, Machine
from tarflow import TarFlow

ROOT = Path(__file__).parents[1]
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCE}
BATCHES = {4: (1, 16, 64), 2: (8,)}
"""Batch sizes by patch size: 64 patches, and 256."""
SLOW = 1 / 5
"""Precisions that multiply at less than this share of float32's rate are measured once."""


def main(arguments: Sequence[str] | None = None) -> Results:
    """Measure, show, and write a file and a picture."""
    options = read_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    dtypes = [DTYPES[name] for name in options.dtype]
    with console.status("measuring the machine"):
        machine = measure_machine(device, dtypes, options.quick)
    results = Results(describe_environment(device), machine)
    for case in make_cases(options, results):
        flow = make_flow(case.patch_size, device, options.quick)
        with console.status(str(case)) as status:
            found = measure(flow, case, machine, options.compile, status.update)
        results.measurements += found
        speeds = (f"{each.mode} {each.images_per_second:.3g}" for each in found)
        console.print(f"{case}: {', '.join(speeds)} images/s")
    show(results, console)
    write(results, options, console)
    return results


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny untrained flow, small batches")
    add("--batch", type=int, nargs="+", help="batch sizes; by default some for each patch size")
    add("--patch", type=int, nargs="+", choices=sorted(BATCHES), help="patch sizes: 4, 2")
    add("--dtype", nargs="+", choices=sorted(DTYPES), help="precisions: float32, bfloat16")
    add("--repeats", type=int, help="repetitions: 5")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, help="number of CPU threads; by default torch's")
    add("--compile", action="store_true", help="measure compiled sequential decoding too")
    add("--output", type=Path, help="folder for the file and the picture")
    options = parser.parse_args(arguments)
    options.dtype = options.dtype or (["float32"] if options.quick else ["float32", "bfloat16"])
    options.patch = options.patch or ([4] if options.quick else [4, 2])
    options.repeats = options.repeats or (2 if options.quick else 5)
    return options


def measure_machine(device: torch.device, dtypes: list[torch.dtype], quick: bool) -> Machine:
    """What the device does at best, in float32 in any case."""
    wanted = list(dict.fromkeys([torch.float32, *dtypes]))
    if quick:
        return Machine.measure(device, wanted, sizes=(8, 16), largest=256)
    return Machine.measure(device, wanted, SIZES)


def make_cases(options: argparse.Namespace, results: Results) -> list[Case]:
    """What to measure; of precisions that are slow here, one sample once."""
    cases = []
    for patch_size in options.patch:
        batches = options.batch or ((1, 4) if options.quick else BATCHES[patch_size])
        for name in options.dtype:
            share = results.machine.share(DTYPES[name])
            if share >= SLOW or options.dtype == [name]:
                cases += [Case(patch_size, b, DTYPES[name], options.repeats) for b in batches]
            elif patch_size == options.patch[0]:
                cases.append(Case(patch_size, min(batches), DTYPES[name], repeats=1))
                results.notes.append(
                    f"{name} was measured once, at batch {min(batches)}: matrix products reach"
                    f" {100 * share:.1f} % of float32's rate here, less than {100 * SLOW:.0f} %;"
                    f" --dtype {name} measures it in full"
                )
    return cases


def make_flow(patch_size: int, device: torch.device, quick: bool) -> TarFlow:
    """A trained flow of photographs, or a tiny one with random weights."""
    if not quick:
        return photographs.load(photographs.SETTINGS[patch_size], device)
    sizes: Any = {"num_transforms": 2, "num_layers": 1, "model_dim": 64, "num_classes": 2}
    generator = torch.Generator().manual_seed(0)
    flow = TarFlow(4 * patch_size, patch_size, num_channels=1, **sizes)
    with torch.no_grad():
        for parameter in flow.parameters():  # as it is made, a flow is the identity
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return flow.to(device).eval()


def show(results: Results, console: Console) -> None:
    """Print the table, and what it is to be held against."""
    console.print(results.table())
    for name, rate in results.machine.rate.items():
        console.print(f"{name.removeprefix('torch.')} products: {rate / 1e9:,.1f} GFLOP/s")
    for size, rate in results.machine.bandwidth.items():
        console.print(f"copies of {size} MB read and written: {rate / 1e9:,.1f} GB/s")
    for note in (*results.compilation(), *results.notes):
        console.print(note)


def write(results: Results, options: argparse.Namespace, console: Console) -> None:
    """Write the file and the picture."""
    scratch = ROOT / "outputs" / "benchmarks" if options.quick else None
    output = options.output or scratch
    path = results.write(output or ROOT / "benchmarks" / "results")
    picture = (output or ROOT / "docs" / "images") / "sampling.png"
    draw(results, picture)
    console.print(f"{path}\n{picture}")


if __name__ == "__main__":
    main()
