"""Published data sets: what all of them have in common.

Each has a file of its own, with the numbers and the layout of its versions and a reader of its
files as they were given out; any of them may be what `tarflow prepare` made of these instead.
Files that are missing, damaged, incomplete or of another data set are a `DataError`, which says
what is expected.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from tarflow.data.images import UNLABELLED, ImageData
from tarflow.data.sources.memory_mapped import memory_mapped
from tarflow.data.storage.image_files import ImageFiles
from tarflow.data.storage.listing import Listing
from tarflow.data.storage.picture_folder import PictureFolder, Samples
from tarflow.data.storage.prepared import META
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels

MAX_LISTED = 5
"""Numbers of more classes than these are not listed one by one."""


@dataclass(frozen=True)
class Edition(ABC):
    """One version of a published data set; subclasses read its files.

    Attributes:
        name: The data set and its version: two versions are not comparable.
        choice: What selects it in a command.
        layout: How its files are laid out as they are published.
        counts: Number of images of each part: one for each class, or a single one.
        num_classes: Number of classes; 0 where there are no labels.
    """

    name: str
    choice: str
    layout: str
    counts: Mapping[str, tuple[int, ...]]
    num_classes: int

    @abstractmethod
    def read(self, folder: Path, image_size: int) -> ImageData:
        """Read the files as they are published."""

    @property
    def help(self) -> str:
        """What is expected, and how to prepare it."""
        return (
            f"{self.name} is expected as {self.layout}; or as what this makes of it: tarflow"
            f" prepare {self.choice} data.data.root=SOURCE output=FOLDER"
        )

    def load(self, root: str | Path, image_size: int, check_counts: bool) -> ImageData:
        """Read a folder, as published or prepared, and check what is in it."""
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}. {self.help}")
        prepared = (folder / META).exists()
        data = memory_mapped(folder) if prepared else self.read(folder, image_size)
        if not data.name.startswith(self.name) or data.image_shape != (3, image_size, image_size):
            raise DataError(
                f"{folder} holds {data.name}, of shape {data.image_shape}; wanted is {self.name}"
                f" at {image_size} x {image_size}: give another data.data.root. {self.help}"
            )
        for part in ("train", "test"):
            set_aside = part == "train" and data.validation is not None
            if check_counts and not set_aside:
                self.check(part, data.parts[part].labels)
            self._check_shape(part, data.parts[part], data.image_shape)
        return data

    def check(self, part: str, labels: Any) -> None:
        """Compare the number of images, of each class where that is known."""
        expected = self.counts[part]
        found = (len(labels),)
        if len(expected) > 1:
            found = tuple(np.bincount(np.asarray(labels) + 1, minlength=len(expected) + 1)[1:])
        if tuple(map(int, found)) == expected and len(labels) == sum(expected):
            return
        by_class = ""
        if 1 < len(expected) <= MAX_LISTED:
            listed = (", ".join(map(str, counts)) for counts in (found, expected))
            by_class = " (by class {}, where {} are expected)".format(*listed)
        raise DataError(
            f"there are {len(labels):,} {part} images{by_class}, but {self.name} has"
            f" {sum(expected):,}: complete them, or pass check_counts=false to use a subset."
            f" {self.help}"
        )

    def assemble(
        self,
        parts: Mapping[str, Dataset],
        image_size: int,
        size: str = "as published",
        class_names: tuple[str, ...] = (),
    ) -> ImageData:
        """Put parts together, of images published at that size or resized to it."""
        return ImageData.of(
            f"{self.name}, {size}, split as published",
            parts,
            codec=Pixels(256),
            num_classes=self.num_classes,
            image_shape=(3, image_size, image_size),
            class_names=class_names,
        )

    def list_images(self, folder: Path) -> Samples:
        """Paths of all PNG files in order, without labels."""
        listed = Listing(folder).pictures if folder.is_dir() else []
        found = (folder / path for path in listed)
        paths = sorted((path for path in found if path.suffix == ".png"), key=lambda p: p.name)
        if not paths:
            raise DataError(f"{folder} holds no .png files. {self.help}")
        return [(str(path), UNLABELLED) for path in paths]

    def _check_shape(self, part: str, dataset: Any, shape: tuple[int, int, int]) -> None:
        """Check that a part has images, and the shape of the first."""
        if not len(dataset):
            raise DataError(f"there are no {part} images. {self.help}")
        found = tuple(dataset[0][0].shape)
        if found != shape:
            raise DataError(f"images are of shape {found}, not {shape}. {self.help}")


def resized(image_size: int) -> str:
    """What the name of a data set tells of images that were brought to one size."""
    return f"{image_size} x {image_size} (shorter side resized with antialiasing, centre kept)"


@dataclass(frozen=True)
class ClassFolders(Edition):
    """An edition published as folders `train` and `test_folder`, with a folder for each class."""

    test_folder: str

    def read(self, folder: Path, image_size: int) -> ImageData:
        names = {"train": "train", "test": self.test_folder}
        read = {
            part: PictureFolder(folder / name, self.help).parts["train"]
            for part, name in names.items()
        }
        classes = read["train"].class_names
        if len(classes) != self.num_classes or read["test"].class_names != classes:
            found = ", ".join(f"{len(read[part].class_names)} in {names[part]}" for part in read)
            raise DataError(
                f"{folder} has other classes than it should, or they differ: {found}. {self.help}"
            )
        parts = {part: ImageFiles(few.samples, image_size) for part, few in read.items()}
        return self.assemble(parts, image_size, resized(image_size), classes)


def choose(versions: Mapping[str, Edition], version: str) -> Edition:
    """Look a version up."""
    if version not in versions:
        raise DataError(f"version {version} is unknown: choose {' or '.join(versions)}")
    return versions[version]
