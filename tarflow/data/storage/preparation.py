"""Converts a data set, once, into what a cluster reads fast: mapped arrays, or shards."""

import io
import os
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tarflow.arguments import check_integer
from tarflow.data.images import UNLABELLED, ImageData
from tarflow.data.loading.training_part import Mirrored
from tarflow.data.sources.tar_shards import read_part
from tarflow.data.storage.framing import MODES
from tarflow.data.storage.prepared import Description, Digest
from tarflow.errors import ConfigurationError, DataError
from tarflow.machine.files import writing
from tarflow.machine.processes import Process
from tarflow.registry import Part

BATCH = 256
"""Images that are read at a time."""

LOCK = ".lock"
"""The file by which `Process.claim` keeps others out."""

ImageBatches = Iterable[tuple[Tensor, Tensor]]


class Format(Part, ABC):
    """How the images of a part are kept in a folder.

    Attributes:
        name: What `meta.json` calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def write(
        self,
        folder: Path,
        part: str,
        count: int,
        shape: tuple[int, int, int],
        batches: ImageBatches,
    ) -> None:
        """Write a part.

        Args:
            folder: Where to.
            part: Its name.
            count: Number of images.
            shape: Shape of an image.
            batches: Images and labels, in order.
        """


@dataclass(frozen=True)
class Arrays(Format):
    """`PART_images.npy` and `PART_labels.npy`, to be mapped to memory."""

    name: ClassVar[str] = "arrays"

    def write(self, folder, part, count, shape, batches):
        path = folder / f"{part}_images.npy"
        images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *shape))
        with path.open("r+b") as file:  # writing to a map of a full disk would kill the process
            if hasattr(os, "posix_fallocate"):  # not on a Mac
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        all_labels = np.empty(count, np.int64)
        start = 0
        for pixels, labels in batches:
            rows = slice(start, start + len(pixels))
            images[rows], all_labels[rows] = pixels.numpy(), labels.numpy()
            start = rows.stop
        images.flush()
        np.save(folder / f"{part}_labels.npy", all_labels)


@dataclass(frozen=True)
class Shards(Format):
    """WebDataset shards: `PART-000000.tar` and so on, with `.png` and `.cls` files.

    Attributes:
        images_per_shard: Number of images in a shard; a shard is what is copied or streamed.
    """

    images_per_shard: int = 10_000
    name: ClassVar[str] = "shards"

    def __post_init__(self):
        check_integer("images_per_shard", self.images_per_shard, 1, DataError)

    def write(self, folder, part, count, shape, batches):
        if shape[0] not in MODES:
            raise DataError(f"shards hold images of 1 or 3 channels, not {shape[0]}: use arrays")
        examples = ((x, int(y)) for batch in batches for x, y in zip(*batch, strict=True))
        for shard, start in enumerate(range(0, count, self.images_per_shard)):
            path = folder / f"{part}-{shard:06d}.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
                for index in range(start, min(start + self.images_per_shard, count)):
                    _add_example(archive, f"{index:09d}", *next(examples))
        next(examples, None)  # lets the source finish
        # The index too, as a cluster's storage may be for reading only.
        read_part(folder, f"{part}-*.tar", None, shape[0])


def prepare(
    data: ImageData,
    output: str | Path,
    format: Format = Arrays(),
    num_workers: int | None = 0,
) -> Description:
    """Write a data set into a folder, which appears when it is complete.

    A killed preparation leaves a folder of another name, `.NAME.new`, which nothing reads and the
    next preparation replaces.

    Args:
        data: The data set; training images are written as they are, not mirrored.
        output: The folder to make.
        format: How images are kept.
        num_workers: Number of processes that read and decode images; None takes one for each core.

    Raises:
        DataError: The folder exists or another process is making it, or an image cannot be read
            or differs from the others in shape.
    """
    if num_workers is not None:
        check_integer("num_workers", num_workers, 0, DataError)
    folder = Path(output).expanduser().absolute()
    if folder.exists():
        raise DataError(f"{folder} exists already: choose another output, or remove it")
    new = folder.with_name(f".{folder.name}.new")
    with writing(folder):
        new.mkdir(parents=True, exist_ok=True)
    with writing(folder), _alone(new):
        try:
            for path in new.iterdir():  # what a killed preparation left
                if path.name != LOCK:
                    path.unlink()
            cores = _num_cores() if num_workers is None else num_workers
            description = _write(data, new, format, cores)
            os.rename(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    (folder / LOCK).unlink(missing_ok=True)
    return description


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other preparations out of a folder: two in one would make a mixture of both."""
    with ExitStack() as stack:
        try:
            stack.enter_context(Process().claim(folder))
        except ConfigurationError as error:
            raise DataError(f"another process prepares {folder}: wait for it") from error
        yield


def _num_cores() -> int:
    """The cores that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write(data: ImageData, folder: Path, format: Format, num_workers: int) -> Description:
    """Write every part, and at last the description."""
    train = data.train.dataset if isinstance(data.train, Mirrored) else data.train
    given = {"train": train, "val": data.validation, "test": data.test}
    parts: dict[str, Any] = {name: part for name, part in given.items() if part is not None}
    digests = {part: Digest() for part in parts}
    for part, dataset in parts.items():
        batches = _read(dataset, part, data.image_shape, digests[part], num_workers)
        format.write(folder, part, len(dataset), data.image_shape, batches)
    description = Description(
        format=format.name,
        name=data.name,
        levels=data.levels,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        class_names=data.class_names,
        counts={part: len(dataset) for part, dataset in parts.items()},
        sha256={part: digest.hexdigest() for part, digest in digests.items()},
    )
    description.write(folder)
    return description


def _read(
    dataset: Dataset, part: str, shape: tuple[int, int, int], digest: Digest, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read images and labels in order, with a progress bar."""
    loader = DataLoader(dataset, BATCH, num_workers=num_workers)
    bar = track(loader, f"Preparing {part} images", console=Console(stderr=True))
    for images, labels in bar:
        if tuple(images.shape[1:]) != shape:
            raise DataError(
                f"{part} images are of shape {tuple(images.shape[1:])}, but the data set tells of"
                f" {shape}"
            )
        digest.add(images, labels)
        yield images, labels


def _add_example(
    archive: tarfile.TarFile, key: str, image: UInt8[Tensor, "channels height width"], label: int
) -> None:
    """Write an image, without loss, and its label if it has one."""
    content = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.movedim(0, -1)
    Image.fromarray(pixels.contiguous().numpy()).save(content, format="PNG")
    files = {"png": content.getvalue()}
    if label != UNLABELLED:
        files["cls"] = str(label).encode()
    for extension, data in files.items():
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
