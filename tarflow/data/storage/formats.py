"""How the images of a part are kept in a folder: as arrays, or as shards."""

import io
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from tarflow.arguments import check_integer
from tarflow.data.images import UNLABELLED
from tarflow.data.storage.framing import MODES
from tarflow.data.storage.tar_images import read_part
from tarflow.errors import DataError
from tarflow.registry import Part

Shape = tuple[int, int, int]
ImageBatches = Iterable[tuple[Tensor, Tensor]]
"""Images, and their labels as files keep them: `UNLABELLED` where there are none."""


class Format(Part, ABC):
    """How the images of a part are kept in a folder.

    Attributes:
        name: What `meta.json` calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def write(
        self, folder: Path, part: str, count: int, shape: Shape, batches: ImageBatches
    ) -> None:
        """Write a part of so many images of a shape, which come in order."""


@dataclass(frozen=True)
class Arrays(Format):
    """`PART_images.npy` and `PART_labels.npy`, to be mapped to memory."""

    name: ClassVar[str] = "arrays"

    def write(
        self, folder: Path, part: str, count: int, shape: Shape, batches: ImageBatches
    ) -> None:
        write_arrays(folder, f"{part}_images.npy", part, "uint8", (count, *shape), batches)


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

    def write(
        self, folder: Path, part: str, count: int, shape: Shape, batches: ImageBatches
    ) -> None:
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


def write_arrays(
    folder: Path, name: str, part: str, dtype: str, shape: tuple[int, ...], batches: ImageBatches
) -> None:
    """Write what comes in batches into a .npy file, and its labels into `PART_labels.npy`."""
    path = folder / name
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:  # writing to a map of a full disk would kill the process
        if hasattr(os, "posix_fallocate"):  # not on a Mac
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    all_labels = np.empty(shape[0], np.int64)
    start = 0
    for stored, labels in batches:
        rows = slice(start, start + len(stored))
        array[rows], all_labels[rows] = stored.numpy(), labels.numpy()
        start = rows.stop
    array.flush()
    np.save(folder / f"{part}_labels.npy", all_labels)


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
