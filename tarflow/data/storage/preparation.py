"""Converts a data set, once, into what a cluster reads fast: mapped arrays, or shards."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tarflow.arguments import check_integer
from tarflow.data.images import UNLABELLED, ImageData
from tarflow.data.loading.batches import Batch, Numbered, collate
from tarflow.data.storage.formats import Arrays, Format, Shape
from tarflow.data.storage.prepared import Description, Digest
from tarflow.errors import ConfigurationError, DataError
from tarflow.flows.codec import Pixels
from tarflow.machine.files import put, writing
from tarflow.machine.processes import Process

BATCH = 256
"""Images that are read at a time."""

LOCK = ".lock"
"""The file by which `Process.claim` keeps others out."""


def prepare(
    data: ImageData, output: str | Path, format: Format = Arrays(), num_workers: int | None = 0
) -> Description:
    """Write a data set into a folder, which appears when it is complete.

    A killed preparation leaves a folder of another name, `.NAME.new`, which nothing reads and the
    next preparation replaces.

    Args:
        data: The data set; training images are written as they are, not augmented.
        output: The folder to make.
        format: How images are kept.
        num_workers: Number of processes that read and decode images; None takes one for each core.

    Raises:
        DataError: The folder exists or another process is making it, or an image cannot be read
            or differs from the others in shape; or the data set holds something else than bytes
            of pixels and labels.
    """
    if type(data.codec) is not Pixels or data.codec.levels > 256:
        raise DataError(
            f"{data.name} is stored for {data.codec}: bytes alone, of Pixels(2) ... Pixels(256),"
            " can be prepared"
        )
    num_workers = read_workers(num_workers)
    with appearing(output) as new:
        return _write(data, new, format, num_workers)


def read_workers(num_workers: int | None) -> int:
    """The number of processes that read images; None takes one for each core."""
    if num_workers is not None:
        return check_integer("num_workers", num_workers, 0, DataError)
    if hasattr(os, "sched_getaffinity"):  # the cores that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def appearing(output: str | Path) -> Iterator[Path]:
    """Where to write a folder that appears, as the output, when all of it is written.

    Raises:
        DataError: It exists, or another process is making it.
    """
    folder = Path(output).expanduser().absolute()
    if folder.exists():
        raise DataError(f"{folder} exists already: choose another output, or remove it")
    new = folder.with_name(f".{folder.name}.new")
    with writing(folder):
        new.mkdir(parents=True, exist_ok=True)
    with writing(folder), _alone(new):
        try:
            for path in new.iterdir():  # what a killed preparation left
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
            yield new
            put(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    (folder / LOCK).unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other preparations out of a folder: two in one would make a mixture of both."""
    with ExitStack() as stack:
        try:
            stack.enter_context(Process().claim(folder))
        except ConfigurationError as error:
            raise DataError(f"another process prepares {folder}: wait for it") from error
        yield


def _write(data: ImageData, folder: Path, format: Format, num_workers: int) -> Description:
    """Write every part, and at last the description."""
    parts, digests = data.parts, {part: Digest() for part in data.parts}
    for part, dataset in parts.items():
        batches = read_images(dataset, part, data.image_shape, digests[part], num_workers)
        format.write(folder, part, len(dataset), data.image_shape, batches)
    description = Description(**described(data, format.name, digests))
    description.write(folder)
    return description


def described(data: ImageData, format: str, digests: Mapping[str, Digest]) -> dict[str, Any]:
    """What is told of every prepared data set, by attributes of `Description`."""
    return {
        "format": format,
        "name": data.name,
        "levels": data.determined["levels"],
        "num_classes": data.num_classes,
        "image_shape": data.image_shape,
        "class_names": data.class_names,
        "counts": {part: len(dataset) for part, dataset in data.parts.items()},
        "sha256": {part: digest.hexdigest() for part, digest in digests.items()},
    }


def read_images(
    dataset: Dataset, part: str, shape: Shape, digest: Digest, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read images and labels in order, with a progress bar.

    Raises:
        DataError: They are of another shape, or something else than bytes and labels.
    """
    loader = DataLoader(Numbered(dataset), BATCH, num_workers=num_workers, collate_fn=collate)
    for batch in track(loader, f"Preparing {part} images", console=Console(stderr=True)):
        images, labels = batch.x, _labels(batch, part)
        if tuple(images.shape[1:]) != shape:
            raise DataError(
                f"{part} images are of shape {tuple(images.shape[1:])}, but the data set tells of"
                f" {shape}"
            )
        digest.add(images, labels.numpy())
        yield images, labels


def _labels(batch: Batch, part: str) -> Int[Tensor, " batch"]:
    """The labels of a batch as files keep them; refuses what files could not keep."""
    if set(batch.context) - {"label"} or batch.x.dtype != torch.uint8:
        raise DataError(
            f"{part} images hold {batch.x.dtype} and the parts {sorted(batch.context)} of a"
            " context: only bytes and a label can be prepared"
        )
    label = batch.context.label
    return torch.full((len(batch.x),), UNLABELLED) if label is None else label
