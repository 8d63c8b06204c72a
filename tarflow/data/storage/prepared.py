"""Prepared data sets: a folder with the images of each part, and `meta.json` that tells of them.

`tarflow prepare` writes them, as arrays that are mapped to memory or as WebDataset shards.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.arguments import check_integer
from tarflow.data.images import UNLABELLED, Example, ImageData, context_of
from tarflow.data.storage.tar_images import read_part
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.machine.files import write_atomically

META = "meta.json"
LAYOUT = (
    "expected is a folder that `tarflow prepare` wrote: meta.json, and for each part"
    " PART_images.npy with PART_labels.npy, or PART-000000.tar and so on. To make one: tarflow"
    " prepare data=NAME data.data.root=SOURCE output=FOLDER"
)


@dataclass(frozen=True)
class Description:
    """What `meta.json` tells of a prepared data set.

    Attributes:
        format: How images are kept: `arrays` or `shards`.
        name: The data set, its version and how it was divided.
        levels: Number of values that a pixel takes.
        num_classes: Number of classes; 0 for data without labels.
        image_shape: Channels, height and width of an image.
        class_names: A name for each class, where classes have names.
        counts: Number of images of each part.
        sha256: Hash of the content of each part, the same in every format.
    """

    format: str
    name: str
    levels: int
    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    sha256: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Read the description in a folder.

        Raises:
            DataError: It is missing, or cannot be read.
        """
        path = folder / META
        if not path.is_file():
            raise DataError(f"there is no {path}: {LAYOUT}")
        try:
            content = json.loads(path.read_text())
            content["image_shape"] = tuple(content["image_shape"])
            content["class_names"] = tuple(content["class_names"])
            return cls(**content)._checked()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{path} cannot be read ({error!r}): {LAYOUT}") from error

    def _checked(self) -> "Description":
        """This, if its values are of the right kind."""
        check_integer("levels", self.levels, least=2)
        check_integer("num_classes", self.num_classes, least=0)
        if not all(isinstance(name, str) for name in self.class_names):
            raise TypeError(f"class_names {self.class_names}")
        if not isinstance(self.counts, dict) or not {"train", "test"} <= self.counts.keys():
            raise TypeError(f"counts {self.counts}")
        return self

    def write(self, folder: Path) -> None:
        """Write `meta.json`."""
        write_atomically(folder / META, json.dumps(asdict(self), indent=2) + "\n")

    def image_data(self, parts: Mapping[str, Dataset]) -> ImageData:
        """The data set, given its parts."""
        return ImageData(
            name=self.name,
            train=parts["train"],
            validation=parts.get("val"),
            test=parts["test"],
            codec=Pixels(self.levels),
            num_classes=self.num_classes,
            image_shape=self.image_shape,
            class_names=self.class_names,
        )


class MappedImages(Dataset):
    """Images in a .npy file that is mapped to memory; a copy for another process maps it anew.

    Args:
        images: The file of the images.
        labels: The file of their labels.

    Raises:
        DataError: A file is missing, cut off, or holds other arrays.
    """

    def __init__(self, images: Path, labels: Path):
        self.path = images
        try:
            self.labels = np.load(labels, allow_pickle=False)
            self.shape = self.images.shape
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{images} or {labels} cannot be read ({error}): {LAYOUT}") from error
        self.labelled = bool((self.labels != UNLABELLED).any())
        if self.labels.shape != self.shape[:1] or self.images.dtype != np.uint8:
            raise DataError(
                f"{images} holds {self.images.dtype} of shape {self.shape}, and {labels} labels of"
                f" shape {self.labels.shape}: expected are bytes, and one label for each image"
            )

    @property
    def images(self) -> np.ndarray:
        """The images, of shape (number, channels, height, width)."""
        if "_images" not in self.__dict__:
            self._images = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._images

    def __getstate__(self) -> dict:
        """The map stays behind."""
        return {key: value for key, value in self.__dict__.items() if key != "_images"}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        image = torch.from_numpy(np.array(self.images[index]))
        return image, context_of(int(self.labels[index]), self.labelled)

    def __getitems__(self, indices: list[int]) -> list[Example]:
        """Read a batch with one indexing operation; the DataLoader looks for this method."""
        contexts = (context_of(label, self.labelled) for label in self.labels[indices].tolist())
        return list(zip(torch.from_numpy(self.images[indices]), contexts, strict=True))


def read_prepared(folder: Path, verify: bool = False) -> ImageData:
    """Read a prepared folder as it is.

    Raises:
        DataError: It is missing, incomplete or damaged.
    """
    description = Description.read(folder)
    parts: dict[str, Any] = {}
    for part, count in description.counts.items():
        if description.format == "shards":
            parts[part] = read_part(folder, f"{part}-*.tar", None, description.image_shape[0])
        else:
            paths = (folder / f"{part}_{kind}.npy" for kind in ("images", "labels"))
            parts[part] = MappedImages(*paths)
        _check(folder, part, parts[part], count, description, verify)
    return description.image_data(parts)


class Digest:
    """The hash of a part: of its images and labels in order, however they are kept."""

    def __init__(self):
        self.pixels = hashlib.sha256()
        self.labels = hashlib.sha256()

    def add(self, images: UInt8[Tensor, "..."], labels: Int[Tensor, " batch"]) -> None:
        """Take in the next images."""
        self.pixels.update(images.contiguous().numpy().tobytes())
        self.labels.update(labels.to(torch.int64).numpy().astype("<i8").tobytes())

    def hexdigest(self) -> str:
        """The hash of what was taken in."""
        return hashlib.sha256(self.pixels.digest() + self.labels.digest()).hexdigest()


def digest_of(examples: Iterable[Example]) -> str:
    """The hash of images and labels."""
    digest = Digest()
    for image, context in examples:
        digest.add(image, torch.tensor([context.get("label", UNLABELLED)]))
    return digest.hexdigest()


def _check(
    folder: Path, part: str, dataset: Any, count: int, description: Description, verify: bool
) -> None:
    """Compare a part with the description."""
    if len(dataset) != count:
        raise DataError(
            f"{folder} holds {len(dataset)} {part} images, but its {META} tells of {count}:"
            f" prepare it again; {LAYOUT}"
        )
    shape = tuple(dataset[0][0].shape)
    if shape != description.image_shape:
        raise DataError(
            f"the {part} images in {folder} are of shape {shape}, but its {META} tells of"
            f" {description.image_shape}: prepare it again"
        )
    if verify:
        found = digest_of(dataset[index] for index in range(count))
        if found != description.sha256[part]:
            raise DataError(
                f"the {part} images in {folder} have the hash {found}, but its {META} tells of"
                f" {description.sha256[part]}: the files have changed; prepare them again"
            )
