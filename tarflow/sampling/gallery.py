"""A folder of samples: a grid to look at, single images, arrays."""

import csv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.errors import DataError
from tarflow.flows.codec import Codec
from tarflow.flows.context import NULL_CLASS
from tarflow.flows.table_columns import TableColumns
from tarflow.machine.files import replacing, write_atomically
from tarflow.sampling.array_layout import ArrayLayout, AsStored
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.pictures import beside, grid


@dataclass(frozen=True)
class Gallery:
    """Writes samples into a folder; every file is written whole or not at all.

    Attributes:
        codec: Tells how what is stored is shown.
        num_columns: Images in a row of the grid; None for a square.
    """

    directory: Path
    codec: Codec
    num_columns: int | None = None

    def write_grid(self, panels: dict[str, Shaped[Tensor, "batch channels height width"]]) -> Path:
        """Write `grid.png`: sets of images beside each other, each under its title."""
        pictures = {
            title: grid(self.codec.to_bytes(pixels), self.num_columns)
            for title, pixels in panels.items()
        }
        picture = beside(pictures) if len(pictures) > 1 else next(iter(pictures.values()))
        return self._write_picture("grid.png", picture)

    def write_images(self, batches: Iterable[Shaped[Tensor, "_ channels height width"]]) -> Path:
        """Write `images/000000.png` and so on, at their own size, and remove any beyond these."""
        index = -1
        for index, image in enumerate(image for batch in batches for image in batch):
            picture = grid(self.codec.to_bytes(image[None]), min_side=1, gap=0)
            self._write_picture(f"images/{index:06d}.png", picture)
        _remove_images(self.directory, index + 1)
        return self.directory / "images"

    def write_arrays(
        self,
        batches: Iterable[Shaped[Tensor, "_ channels height width"]],
        count: int,
        label: Int[Tensor, " count"] | None,
        layout: ArrayLayout = AsStored(),
    ) -> Path:
        """Write `samples.npz`: the images, never all in memory, and labels if there are any.

        Raises:
            DataError: There are more or fewer images than `count`.
        """
        path = self._path("samples.npz")
        with replacing(path) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
            parts = (layout.arrange(batch, self.codec) for batch in batches)
            _write_array(archive, layout.images, count, parts)
            if label is not None:
                _write_array(archive, layout.labels, count, [label])
        return path

    def write_table(
        self, batches: Iterable[Shaped[Tensor, "_ columns"]], columns: TableColumns
    ) -> Path:
        """Write `samples.csv`: rows below the names of their columns; empty where not finite."""
        path = self._path("samples.csv")
        with replacing(path) as new, new.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns.names)
            for batch in batches:
                table = columns.table(batch)
                rows = zip(*table.values(), strict=True)
                writer.writerows([_cell(value) for value in row] for row in rows)
        return path

    def write_certificates(self, certificates: Certificates) -> Path:
        """Write `certificates.csv`."""
        path = self._path("certificates.csv")
        write_atomically(path, certificates.to_csv())
        return path

    def _path(self, name: str) -> Path:
        """The path of a file, in a folder that is made if need be."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write_picture(self, name: str, picture: Image.Image) -> Path:
        """Write a picture."""
        path = self._path(name)
        with replacing(path) as new:
            picture.save(new, format="PNG")
        return path


def remove_gallery(directory: Path) -> None:
    """Remove every file that a gallery writes."""
    for name in ("grid.png", "samples.npz", "samples.csv", "certificates.csv"):
        (directory / name).unlink(missing_ok=True)
    _remove_images(directory, 0)
    images = directory / "images"
    if images.is_dir() and not any(images.iterdir()):
        images.rmdir()


def _cell(value: Any) -> str:
    """A value as a cell; float32 with as few digits as tell it apart."""
    text = str(value)
    return "" if text == "nan" else text


def _remove_images(directory: Path, first: int) -> None:
    """Remove the images of an earlier, larger set, from an index on."""
    for path in (directory / "images").glob("[0-9]*.png"):
        if path.stem.isdecimal() and int(path.stem) >= first:
            path.unlink(missing_ok=True)


def _write_array(
    archive: zipfile.ZipFile, name: str, length: int, parts: Iterable[Shaped[Tensor, "..."]]
) -> None:
    """Write an array of `length` rows into an .npz, some rows at a time."""
    written = 0
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        for part in parts:
            array = part.contiguous().numpy()
            if not written:
                header = np.lib.format.header_data_from_array_1_0(array)
                header["shape"] = (length, *array.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(array.tobytes())
            written += len(array)
    if written != length:
        raise DataError(f"{written} {name} came, where {length} were announced")


def real_images(
    part: Dataset, label: Int[Tensor, " batch"] | None, count: int
) -> Shaped[Tensor, "batch channels height width"]:
    """Images of a data set to put beside samples: of their classes, where they have classes.

    Raises:
        DataError: The data set has no image of a class.
    """
    size: int = len(part)  # pyright: ignore[reportArgumentType]
    if label is None:
        return torch.stack([part[index % size][0] for index in range(count)])
    of_class: dict[int, list[int]] = {}
    for index in range(size):
        of_class.setdefault(int(part[index][1].get("label", NULL_CLASS)), []).append(index)
    missing = sorted(set(label.tolist()) - of_class.keys())
    if missing:
        raise DataError(f"there is no real image of class {missing[0]} to put beside samples")
    turns = {value: cycle(indices) for value, indices in of_class.items()}
    return torch.stack([part[next(turns[value])][0] for value in label.tolist()])
