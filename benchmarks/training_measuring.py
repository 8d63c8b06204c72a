"""Times ways to train against each other, and finds out how much memory they take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.measuring import Tell, turns
from benchmarks.memory import peak_memory
from benchmarks.roofline import Machine, Transformer
from benchmarks.trainer import PackageTraining
from benchmarks.training_baseline import TrainingBaseline
from benchmarks.training_results import TrainingMeasurement
from tarflow import GaussianNoise, TarFlow
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.machine import now

NUM_CLASSES = 10


@dataclass(frozen=True)
class Model:
    """The flow that is trained.

    Attributes:
        image_size: Height and width of its images, which have three channels.
        patch_size: Side of a patch.
        num_transforms: Number of autoregressive transforms.
        num_layers: Number of layers in each.
        model_dim: Width of the transformers.
    """

    image_size: int
    patch_size: int
    num_transforms: int
    num_layers: int
    model_dim: int

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the transformers, as `TarFlow` takes them."""
        names = ("num_transforms", "num_layers", "model_dim")
        return {name: getattr(self, name) for name in names}

    @property
    def length(self) -> int:
        """Number of patches."""
        return (self.image_size // self.patch_size) ** 2

    def make(self) -> TarFlow:
        """The flow, with fresh weights."""
        torch.manual_seed(0)
        noise = GaussianNoise(256, 0.05)
        return TarFlow(
            self.image_size, self.patch_size, **self.sizes, num_classes=NUM_CLASSES, noise=noise
        )

    def images(self, num_images: int) -> ArrayDataset:
        """Images of noise, in memory: how long a step takes does not depend on them."""
        shape = (num_images, 3, self.image_size, self.image_size)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return ArrayDataset(pixels, torch.arange(num_images) % NUM_CLASSES)


MODES: dict[str, Callable[[Model], dict[str, Any]]] = {
    "tarflow": lambda model: {},
}
"""For each way of the package, the arguments of `FlowModule` that differ from its defaults."""


@dataclass(frozen=True)
class Case:
    """What is trained, and for how long: one group of measurements.

    Attributes:
        model: The flow.
        batch_size: Number of images in a step.
        dtype: Precision in which transformers compute.
        repeats: Number of blocks of steps of each mode.
        steps: Number of steps in a block that count.
        warmup: Number of steps before them that do not.
    """

    model: Model
    batch_size: int
    dtype: torch.dtype
    repeats: int
    steps: int
    warmup: int = 2

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"T = {self.model.length}, batch {self.batch_size}, {dtype}"


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
        torch.cuda.empty_cache()


def make_runs(
    flow: TarFlow, case: Case, modes: list[str], device: torch.device
) -> Mapping[str, Run]:
    """The baseline, and the package's ways, each with a copy of the flow."""
    data = case.model.images(8 * case.batch_size)
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
    shape = tuple(data.images.shape[1:])
    return ImageData("noise", data, None, data, 256, NUM_CLASSES, shape)


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
