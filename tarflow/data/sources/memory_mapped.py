"""What `tarflow prepare` wrote."""

import mmap
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from tarflow.data.images import ArrayDataset, ImageData, LabelledImages
from tarflow.data.loading.batches import Example
from tarflow.data.storage.prepared import LAYOUT, META, Description, Digest
from tarflow.data.storage.tar_images import read_part
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.registry import register


@register
def memory_mapped(
    root: str | Path,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
    verify: bool = False,
) -> ImageData:
    """Read a folder that `tarflow prepare` wrote, in either format.

    Arrays are mapped to memory: processes share what they read, and none holds all of it.

    The other arguments are those of `image_folder`.

    Args:
        root: The folder.
        verify: Whether to read everything once now, and compare it with the hash.

    Raises:
        DataError: The folder is missing, incomplete or damaged.
    """
    folder = Path(root).expanduser()
    description = Description.read(folder)
    parts: dict[str, LabelledImages] = {}
    for part in description.counts:
        if description.format == "shards":
            parts[part] = read_part(folder, f"{part}-*.tar", None, description.image_shape[0])
        else:
            parts[part] = MappedImages(
                folder / f"{part}_images.npy", folder / f"{part}_labels.npy"
            )
        check_part(folder, part, parts[part], description, description.image_shape, verify)
    data = ImageData.of(
        description.name,
        parts,
        codec=Pixels(description.levels),
        num_classes=description.num_classes,
        image_shape=description.image_shape,
        class_names=description.class_names,
    )
    return data.for_training(validation_fraction, horizontal_flip)


class MappedImages(ArrayDataset):
    """Images in a .npy file that is mapped to memory, and their labels in another.

    Args:
        images: The file of the images.
        labels: That of their labels.
        dtype: What the first holds.
        layout: What is expected of their folder, for messages.
    """

    def __init__(self, images: Path, labels: Path, dtype: str = "uint8", layout: str = LAYOUT):
        self.path = images
        try:
            found = np.load(labels, allow_pickle=False)
            held, shape = self.images.dtype, self.images.shape
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{images} or {labels} cannot be read ({error}): {layout}") from error
        if found.shape != shape[:1] or held != dtype:
            raise DataError(
                f"{images} holds {held} of shape {shape}, and {labels} labels of shape"
                f" {found.shape}: expected are {dtype}, and one label for each image"
            )
        super().__init__(self.images, found)

    @cached_property
    def images(self) -> np.ndarray:
        """The images, of shape (number, channels, height, width)."""
        images: Any = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if hasattr(mmap, "MADV_RANDOM"):  # else every image brings its surroundings from the disk
            images.base.madvise(mmap.MADV_RANDOM)
        return images

    def __getstate__(self) -> dict:
        """The map stays behind; whoever gets a copy maps the file anew."""
        return {key: value for key, value in self.__dict__.items() if key != "images"}

    def image(self, index: int) -> Shaped[Tensor, "..."]:
        self._announce([index])
        return torch.from_numpy(np.array(self.images[index]))

    def __getitems__(self, indices: list[int]) -> list[Example]:
        self._announce(indices)
        return super().__getitems__(indices)

    def _announce(self, indices: list[int]) -> None:
        """Have the system bring some images at once; one by one takes up to 10 times as long."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        images: Any = self.images
        size, begin = images.strides[0], images.offset % mmap.ALLOCATIONGRANULARITY
        for index in indices:
            start = begin + range(len(images))[index] * size
            page = start - start % mmap.PAGESIZE
            images.base.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def check_part(
    folder: Path,
    part: str,
    dataset: LabelledImages,
    description: Description,
    shape: tuple[int, int, int],
    verify: bool,
) -> None:
    """Compare a part with what is told of it.

    Raises:
        DataError: It has another number of examples, another shape or, where everything is read
            for that, another hash.
    """
    count = description.counts[part]
    if len(dataset) != count:
        raise DataError(
            f"{folder} holds {len(dataset)} {part} images, but its {META} tells of {count}:"
            f" prepare it again; {description.layout}"
        )
    found = tuple(dataset.image(0).shape)
    if found != shape:
        raise DataError(
            f"the {part} images in {folder} are of shape {found}, but its {META} tells of"
            f" {shape}: prepare it again"
        )
    if verify:
        digest = Digest()
        for index in range(count):
            digest.add(dataset.image(index), dataset.labels[index : index + 1])
        if digest.hexdigest() != description.sha256[part]:
            raise DataError(
                f"the {part} images in {folder} have the hash {digest.hexdigest()}, but its {META}"
                f" tells of {description.sha256[part]}: the files have changed; prepare them again"
            )
