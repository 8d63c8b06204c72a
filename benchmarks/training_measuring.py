"""Times ways to train against each other, and finds out how much memory they take."""

import gc
from dataclasses import dataclass, replace

import torch

from benchmarks.measuring import turns
from benchmarks.memory import peak_memory
from benchmarks.precision import Precision
from benchmarks.roofline import Machine
from benchmarks.session import Tell
from benchmarks.trainer import PackageTraining
from benchmarks.training_baseline import TrainingBaseline
from benchmarks.training_cases import MODES, NUM_CLASSES, Case
from benchmarks.training_results import TrainingMeasurement
from tarflow import Pixels, TarFlow
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.machine.device import now
from tarflow.training.operations import training_operations


def measure(
    case: Case, modes: list[str], machine: Machine, device: torch.device, tell: Tell = print
) -> list[TrainingMeasurement]:
    """Find out what every mode takes at most, then time blocks of steps in turns.

    Args:
        case: What to train.
        modes: Modes of the package, by their names in `MODES`.
        machine: What the device does at best.
        device: Where to train.
        tell: Called with what goes on.
    """
    flow = case.model.make()
    runs = make_runs(flow, case, modes, device)
    first, peaks = {}, {}
    for name, run in runs.items():
        tell(f"{case}: first steps, {name}")
        begin = now(device)
        run(1, 1)
        first[name] = now(device) - begin
        tell(f"{case}: memory, {name}")
        peaks[name] = peak_memory(lambda run=run: run(1, 1), device, flow.parameters())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in turns(list(runs), case.repeats, lambda text: tell(f"{case}: {text}")):
        times[name].append(runs[name](case.warmup, case.steps))
    return [
        summarize(flow, case, run, machine, first[name], times[name], peaks[name])
        for name, run in runs.items()
    ]


def measure_what_fits(
    case: Case, modes: list[str], machine: Machine, device: torch.device, tell: Tell = print
) -> tuple[list[TrainingMeasurement], list[str]]:
    """Measure, with half of the batch while memory runs out; also tell of that."""
    notes = []
    while True:
        try:
            return measure(case, modes, machine, device, tell), notes
        except torch.OutOfMemoryError:
            if case.batch_size == 1:
                raise
            notes.append(f"{case}: memory ran out, so the batch was halved")
            case = replace(case, batch_size=case.batch_size // 2)
        gc.collect()  # what the error still held
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Run:
    """A mode in a precision."""

    mode: str
    precision: Precision
    training: TrainingBaseline | PackageTraining

    def __call__(self, warmup: int, steps: int) -> float:
        """Train; return the seconds of a step after the first ones."""
        with self.precision.applied():
            return self.training.run(warmup, steps)


def make_runs(flow: TarFlow, case: Case, modes: list[str], device: torch.device) -> dict[str, Run]:
    """The baseline, and the package's ways, each with a copy of the flow."""
    # More than a block takes: the end of an epoch is no part of a step.
    data = case.model.images((case.warmup + case.steps + 1) * case.batch_size)
    runs = []
    for precision in case.precisions:
        baseline = TrainingBaseline(flow, data, case.batch_size, precision.parts.dtype, device)
        runs.append(Run("baseline", precision, baseline))
        for name in modes:
            batches = ImageDataModule(image_data(data), case.batch_size)
            options = MODES[name](case.model)
            training = PackageTraining(flow, batches, precision.parts.dtype, device, options)
            runs.append(Run(name, precision, training))
    return {f"{run.precision}, {run.mode}": run for run in runs}


def image_data(data: ArrayDataset) -> ImageData:
    """What the package's data module takes."""
    channels, height, width = data.images.shape[1:]
    shape = (channels, height, width)
    return ImageData("noise", data, None, data, Pixels(), NUM_CLASSES, shape)


def summarize(
    flow: TarFlow,
    case: Case,
    run: Run,
    machine: Machine,
    first_seconds: float,
    seconds: list[float],
    peak_bytes: int,
) -> TrainingMeasurement:
    """Put together what was found out about a mode."""
    return TrainingMeasurement(
        patch_size=case.model.patch_size,
        length=case.model.length,
        batch_size=case.batch_size,
        precision=run.precision.name,
        mode=run.mode,
        first_seconds=first_seconds,
        seconds=seconds,
        operations=training_operations(flow) * case.batch_size,
        operations_per_second=machine.rate_for(run.precision),
        peak_bytes=peak_bytes,
    )
