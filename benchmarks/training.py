"""Compares ways to train: as published code does, and as the package does.

    python benchmarks/training.py --quick            # some seconds, a tiny flow
    python benchmarks/training.py                    # two CPU cores: some minutes
    python benchmarks/training.py --device cuda      # all that a GPU machine is to measure

Every mode trains a flow of the same fresh weights, in one process, in blocks of steps that take
turns. On a CPU the flow is 256 wide, with 4 transforms of 4 layers over 64 patches; on a GPU it is
that of ImageNet 64: 768 wide, 8 transforms of 8 layers over 1,024 patches. The batch is 32, and
halved where a mode runs out of memory.

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

sys.path.insert(0, str(Path(__file__).parents[1]))  # for checkouts that are not installed

from benchmarks.loading import Loading, measure_loading, sources
from benchmarks.precision import PRECISIONS, Precision
from benchmarks.session import Tell, make_parser, run
from benchmarks.training_cases import MODES, Case, Model
from benchmarks.training_measuring import measure_what_fits
from benchmarks.training_results import TrainingMeasurement, TrainingResults

QUICK = Model(8, 2, num_transforms=2, num_layers=1, model_dim=64)
MODELS = {
    "cpu": Model(32, 4, num_transforms=4, num_layers=4, model_dim=256),
    "cuda": Model(64, 2, num_transforms=8, num_layers=8, model_dim=768),
}
"""For each type of device, what is trained on it."""
USUAL = {
    "cpu": ["float32", "bfloat16_products", "bfloat16"],
    "cuda": ["tf32_products", "bfloat16"],
}
"""For each type of device, the precisions that it may have instructions for."""


def main(arguments: Sequence[str] | None = None) -> TrainingResults:
    """Measure, show, and write a file."""
    options = read_options(arguments)

    def measure(results: TrainingResults, case: Case, device: torch.device, tell: Tell) -> None:
        found, notes = measure_what_fits(case, options.mode, results.machine, device, tell)
        results.measurements += found
        results.notes += notes
        results.loading += measure_waits(case, found, device, tell)

    return run(TrainingResults, options, make_cases, measure)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--mode", nargs="+", choices=MODES, default=list(MODES), help="ways to train")
    add("--steps", type=int, help="steps in a block, one for each repetition: 8")
    options = parser.parse_args(arguments)
    usual = ["float32"] if options.quick else USUAL[torch.device(options.device).type]
    options.precision = options.precision or usual
    options.batch = options.batch or [4 if options.quick else 32]
    options.repeats = options.repeats or (2 if options.quick else 7)
    options.steps = options.steps or (2 if options.quick else 8)
    return options


def make_cases(options: argparse.Namespace, precisions: tuple[Precision, ...]) -> list[Case]:
    """What to measure."""
    model = QUICK if options.quick else MODELS[torch.device(options.device).type]
    sizes = options.repeats, options.steps
    return [Case(model, batch_size, precisions, *sizes) for batch_size in options.batch]


def measure_waits(
    case: Case, found: list[TrainingMeasurement], device: torch.device, tell: Tell
) -> list[Loading]:
    """How long a step waits for images of every source, in the package's fastest mode."""
    case = replace(case, batch_size=found[0].batch_size)  # what fits into memory
    own = (each for each in found if each.mode != "baseline")
    fastest = min(own, key=lambda each: each.median)
    precision, steps = PRECISIONS[fastest.precision], case.repeats * case.steps
    with sources(case.model.length, max(1024, 2 * case.batch_size)) as all_sources:
        waits = []
        for source in all_sources:
            tell(f"{case}: waiting for {source.name}")
            waits.append(measure_loading(source, fastest.mode, case, precision, device, steps))
    return waits


if __name__ == "__main__":
    main()
