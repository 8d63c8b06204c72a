"""Times ways to train against each other, and finds out how much memory they take."""

import gc
from collections.abc import Mapping
from dataclasses import replace

import torch

from benchmarks.measuring import Tell, turns
from benchmarks.memory import peak_memory
from benchmarks.roofline import Machine, Transformer
from benchmarks.trainer import PackageTraining
from benchmarks.training_baseline import TrainingBaseline
from benchmarks.training_cases import MODES, NUM_CLASSES, Case
from benchmarks.training_results import TrainingMeasurement
from tarflow import Pixels, TarFlow
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.machine.device import now

Run = TrainingBaseline | PackageTraining


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
        run.run(1, 1)
        first[name] = now(device) - begin
        tell(f"{case}: memory, {name}")
        peaks[name] = peak_memory(lambda run=run: run.run(1, 1), device, flow.parameters())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in turns(list(runs), case.repeats, lambda text: tell(f"{case}: {text}")):
        times[name].append(runs[name].run(case.warmup, case.steps))
    return [
        summarize(flow, case, name, machine, first[name], times[name], peaks[name])
        for name in runs
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


def make_runs(
    flow: TarFlow, case: Case, modes: list[str], device: torch.device
) -> Mapping[str, Run]:
    """The baseline, and the package's ways, each with a copy of the flow."""
    # More than a block takes: the end of an epoch is no part of a step.
    data = case.model.images((case.warmup + case.steps + 1) * case.batch_size)
    runs: dict[str, Run] = {
        "baseline": TrainingBaseline(flow, data, case.batch_size, case.dtype, device)
    }
    for name in modes:
        batches = ImageDataModule(image_data(data), case.batch_size)
        options = MODES[name](case.model)
        runs[name] = PackageTraining(flow, batches, case.dtype, device, options)
    return runs


def image_data(data: ArrayDataset) -> ImageData:
    """What the package's data module takes."""
    channels, height, width = data.images.shape[1:]
    shape = (channels, height, width)
    return ImageData("noise", data, None, data, Pixels(), NUM_CLASSES, shape)


def summarize(
    flow: TarFlow,
    case: Case,
    mode: str,
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
        dtype=str(case.dtype).removeprefix("torch."),
        mode=mode,
        first_seconds=first_seconds,
        seconds=seconds,
        operations=step_operations(flow, case.batch_size),
        operations_per_second=machine.rate_for(case.dtype),
        peak_bytes=peak_bytes,
    )


def step_operations(flow: TarFlow, batch_size: int) -> float:
    """What a step needs to compute: a forward pass, and twice as much for the gradients.

    The forward pass is that of roofline.py over the T - 1 positions that predict one, where
    attention is causal: half of the square. Recomputed activations do not count, nor do norms,
    the affine map and the optimizer.
    """
    forward = Transformer.of(flow).operations(batch_size, 0, flow.base.shape[0] - 1)
    return 3 * forward * flow.transform.num_decoded
