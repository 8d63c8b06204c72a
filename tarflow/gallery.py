"""A folder of samples: a grid to look at, single images, arrays."""

import io
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.errors import DataError
from tarflow.files import write_atomically
from tarflow.pictures import beside, grid


@dataclass(frozen=True)
class Gallery:
    """Writes samples into a folder; every file is written whole or not at all.

    Attributes:
        directory: The folder.
        levels: Number of values that a pixel takes.
        num_columns: Images in a row of the grid; None for a square.
    """

    directory: Path
    levels: int
    num_columns: int | None = None

    def write_grid(self, panels: dict[str, Shaped[Tensor, "batch channels height width"]]) -> Path:
        """Write `grid.png`: sets of images beside each other, each under its title."""
        pictures = {
            title: grid(pixels, self.levels, self.num_columns) for title, pixels in panels.items()
        }
        picture = beside(pictures) if len(pictures) > 1 else next(iter(pictures.values()))
        return self._write_picture(self.directory / "grid.png", picture)

    def write_images(self, pixels: Shaped[Tensor, "batch channels height width"]) -> Path:
        """Write `images/000000.png` and so on, at their own size."""
        folder = self.directory / "images"
        for index, image in enumerate(pixels):
            picture = grid(image[None], self.levels, min_side=1, gap=0)
            self._write_picture(folder / f"{index:06d}.png", picture)
        return folder

    def write_arrays(
        self,
        pixels: Shaped[Tensor, "batch channels height width"],
        label: Int[Tensor, " batch"] | None,
    ) -> Path:
        """Write `samples.npz`: `images`, and `labels` where there are any."""
        content = io.BytesIO()
        if label is None:
            np.savez_compressed(content, images=pixels.numpy())
        else:
            np.savez_compressed(content, images=pixels.numpy(), labels=label.numpy())
        return self._write(self.directory / "samples.npz", content.getvalue())

    def _write_picture(self, path: Path, picture: Image.Image) -> Path:
        """Write a picture."""
        content = io.BytesIO()
        picture.save(content, format="PNG")
        return self._write(path, content.getvalue())

    def _write(self, path: Path, content: bytes) -> Path:
        """Write a file, and the folder that it is in."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        return path


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
        of_class.setdefault(int(part[index][1]), []).append(index)
    missing = sorted(set(label.tolist()) - of_class.keys())
    if missing:
        raise DataError(f"there is no real image of class {missing[0]} to put beside samples")
    turns = {value: cycle(indices) for value, indices in of_class.items()}
    return torch.stack([part[next(turns[value])][0] for value in label.tolist()])
