"""Prepared data sets: a folder with the images of each part, and `meta.json` that tells of them.

`tarflow prepare` writes them, as arrays that are mapped to memory or as WebDataset shards.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from tarflow.arguments import check_integer, keep
from tarflow.errors import DataError
from tarflow.machine.files import json_text, write_atomically

Kind = TypeVar("Kind", bound="Description")

META = "meta.json"
LAYOUT = (
    "expected is a folder that `tarflow prepare` wrote: meta.json, and for each part"
    " PART_images.npy with PART_labels.npy, or PART-000000.tar and so on. To make one: tarflow"
    " prepare data=NAME data.data.root=SOURCE output=FOLDER"
)


@dataclass(frozen=True)
class Description:
    """What `meta.json` tells of a prepared data set, besides attributes of `ImageData`.

    Attributes:
        format: How images are kept: `arrays` or `shards`.
        levels: Number of values that a pixel takes.
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
    reader: ClassVar[str] = "memory_mapped"
    layout: ClassVar[str] = LAYOUT
    tuples: ClassVar[tuple[str, ...]] = ("image_shape", "class_names")

    def __post_init__(self):
        keep(self, levels=check_integer("levels", self.levels, least=2))
        keep(self, num_classes=check_integer("num_classes", self.num_classes, least=0))
        if not all(isinstance(name, str) for name in self.class_names):
            raise TypeError(f"class_names {self.class_names}")
        if not isinstance(self.counts, dict) or not {"train", "test"} <= self.counts.keys():
            raise TypeError(f"counts {self.counts}")

    @classmethod
    def read(cls: type[Kind], folder: Path) -> Kind:
        """Read the description in a folder."""
        path = folder / META
        if not path.is_file():
            raise DataError(f"there is no {path}: {cls.layout}")
        try:
            content = json.loads(path.read_text())
            reader = "latents" if content["format"] == "latents" else "memory_mapped"
            if reader == cls.reader:
                for name in cls.tuples:
                    content[name] = tuple(content[name])
                return cls(**content)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{path} cannot be read ({error!r}): {cls.layout}") from error
        raise DataError(
            f"{folder} holds {content['format']}, which data={cls.reader} does not read: give"
            f" data={reader} data.data.root={folder}"
        )

    def write(self, folder: Path) -> None:
        """Write `meta.json`."""
        write_atomically(folder / META, json_text(asdict(self)))


@dataclass(frozen=True)
class LatentDescription(Description):
    """What `meta.json` tells of latents, besides what it tells of the images they were made of.

    Attributes:
        sha256: Hash of the latents of each part.
        images_sha256: Hash of the images of each part, as it is told of prepared images.
        latents_sha256: That of the tokenizer, by which latents of another are refused.
        latent_shape: Channels, height and width of the latents of an image.
        dtype: How they are kept: `float32` or `float16`.
        shift: What the tokenizer took off each channel of its latents.
        scale: What it multiplied it with.
    """

    images_sha256: Mapping[str, str]
    latents_sha256: str
    latent_shape: tuple[int, int, int]
    dtype: str
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    reader: ClassVar[str] = "latents"
    tuples: ClassVar[tuple[str, ...]] = (*Description.tuples, "latent_shape", "shift", "scale")
    layout: ClassVar[str] = (
        "expected is a folder that `tarflow prepare tokenizer=RUN` wrote: meta.json, tokenizer/,"
        " and for each part PART_latents.npy with PART_labels.npy. To make one: tarflow prepare"
        " data=NAME tokenizer=RUN output=FOLDER"
    )


class Digest:
    """The hash of a part: of its images and labels in order, however they are kept."""

    def __init__(self):
        self.pixels = hashlib.sha256()
        self.labels = hashlib.sha256()

    def add(self, images: Shaped[Tensor, "..."], labels: np.ndarray) -> None:
        """Take in the next images."""
        self.pixels.update(images.contiguous().numpy().tobytes())
        self.labels.update(labels.astype("<i8").tobytes())

    def hexdigest(self) -> str:
        """The hash of what was taken in."""
        return hashlib.sha256(self.pixels.digest() + self.labels.digest()).hexdigest()
