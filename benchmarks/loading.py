"""The share of a training step that waits for images: from memory, JPEGs, and maps of millions.

A real fit of a flow with the case's transformers, in the package's fastest mode, through the data
module with as many workers as `conf/data` gives it: Lightning's own profiler tells how long the
training process waited for each batch. On a GPU a wait may be hidden behind a step that is still
running: the share is an upper bound there. JPEGs were just written, so that they are in memory;
the maps of millions of pictures are files without content, which take no room and are not.
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image

from benchmarks.precision import Precision
from benchmarks.trainer import PackageTraining
from benchmarks.training_cases import MODES, Case, Model
from tarflow import GaussianNoise, TarFlow
from tarflow.data import ImageData, ImageDataModule, digits, image_folder, memory_mapped
from tarflow.data.storage.prepared import Description

FETCH = "[_TrainingEpochLoop].train_dataloader_next"
SIDE = 64
"""Height and width of the JPEGs."""
MILLIONS = {"1.28 million": 1_281_167, "10 million": 10_000_000}
"""Numbers of pictures that are mapped to memory."""


@dataclass(frozen=True)
class Source:
    """Images to train on.

    Attributes:
        name: What tables call them.
        data: The images.
        num_workers: Number of processes that read them.
        length: Most patches to cut an image into; fewer where it has fewer pixels.
    """

    name: str
    data: ImageData
    num_workers: int
    length: int

    @property
    def patch_size(self) -> int:
        """The smallest patches that are not too many."""
        side = self.data.image_shape[1]
        return next(
            p for p in range(1, side + 1) if side % p == 0 and (side // p) ** 2 <= self.length
        )


@dataclass(frozen=True)
class Loading:
    """How long a step waits for its batch.

    Attributes:
        source: The images.
        mode: The way to train.
        precision: In which transformers compute.
        batch_size: Number of images in a step.
        length: Number of patches T.
        num_workers: Number of processes that read images.
        wait_seconds: Mean wait for a batch.
        step_seconds: Mean time of a step, the wait included.
    """

    source: str
    mode: str
    precision: str
    batch_size: int
    length: int
    num_workers: int
    wait_seconds: float
    step_seconds: float

    @property
    def share(self) -> float:
        """The part of a step that is waiting."""
        return self.wait_seconds / self.step_seconds

    def __str__(self) -> str:
        return (
            f"{self.source}, T = {self.length}, batch {self.batch_size}, {self.precision}:"
            f" {1000 * self.wait_seconds:.2f} of {1000 * self.step_seconds:.1f} ms wait for data"
            f" ({100 * self.share:.2f} %)"
        )


def measure_loading(
    source: Source, mode: str, case: Case, precision: Precision, device: torch.device, steps: int
) -> Loading:
    """Train for some steps, and tell how long they waited.

    Args:
        source: The images.
        mode: The way to train, one of the package's.
        case: Sizes of the transformers and of the batch.
        precision: In which transformers compute.
        device: Where to train.
        steps: Number of steps that count.
    """
    flow = make_flow(source, case.model)
    batches = ImageDataModule(source.data, case.batch_size, num_workers=source.num_workers)
    training = PackageTraining(
        flow, batches, precision.parts.dtype, device, MODES[mode](case.model)
    )
    profiler = SimpleProfiler()
    with precision.applied():
        seconds = training.run(case.warmup, steps, profiler)
    waits = profiler.recorded_durations[FETCH][case.warmup : case.warmup + steps]
    return Loading(
        source=source.name,
        mode=mode,
        precision=precision.name,
        batch_size=case.batch_size,
        length=flow.base.shape[0],
        num_workers=source.num_workers,
        wait_seconds=statistics.fmean(waits),
        step_seconds=seconds,
    )


def make_flow(source: Source, model: Model) -> TarFlow:
    """A flow of a source's images, with the transformers of a model."""
    data = source.data
    channels, side, _ = data.image_shape
    options: Any = {"num_classes": data.num_classes, "codec": data.codec}
    options["noise"] = GaussianNoise()
    return TarFlow(side, source.patch_size, channels, **model.sizes, **options)


@contextmanager
def sources(length: int, num_images: int) -> Iterator[list[Source]]:
    """The digits, and what lasts as long as the context: JPEGs, and maps of millions of pictures.

    Args:
        length: Most patches to cut an image into.
        num_images: Number of JPEGs.
    """
    with TemporaryDirectory() as folder:
        write_photographs(Path(folder, "jpegs"), num_images)
        photographs = image_folder(Path(folder, "jpegs"), SIDE, verify=False)
        found = [
            Source("digits", digits(), num_workers=0, length=length),
            Source("64 px JPEGs", photographs, num_workers=2, length=length),
        ]
        for name, count in MILLIONS.items():
            data = map_pictures(Path(folder, name), count)
            found.append(Source(f"{name} pictures", data, num_workers=2, length=length))
        yield found


def map_pictures(folder: Path, count: int) -> ImageData:
    """Map a file of tiny pictures to memory, all black, which was never written."""
    folder.mkdir()
    shape = (3, 8, 8)
    for part, number in (("train", count), ("test", 1)):
        for name, dtype, of_one in (("images", np.uint8, shape), ("labels", np.int64, ())):
            path = folder / f"{part}_{name}.npy"
            np.lib.format.open_memmap(path, "w+", dtype, (number, *of_one))
    counts = {"train": count, "test": 1}
    Description("arrays", "black pictures", 256, 1, shape, (), counts, {}).write(folder)
    return memory_mapped(folder)


def write_photographs(folder: Path, num_images: int) -> None:
    """Write crops of scikit-learn's two photographs, a class for each."""
    from sklearn.datasets import load_sample_images

    draw = partial(torch.randint, size=(), generator=torch.Generator().manual_seed(0))
    photographs = load_sample_images().images
    for index in range(num_images):
        pixels = photographs[index % 2]
        top, left = (int(draw(extent - SIDE + 1)) for extent in pixels.shape[:2])
        crop = Image.fromarray(pixels[top : top + SIDE, left : left + SIDE])
        path = folder / str(index % 2) / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=90)
