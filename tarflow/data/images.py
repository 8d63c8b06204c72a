"""What every data set of images provides: stored images, and what they are conditioned on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Integer, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.arguments import check_integer
from tarflow.data.divided_data import DividedData
from tarflow.data.loading.augmentation import mirror
from tarflow.data.loading.batches import Example
from tarflow.data.loading.splits import complete_parts
from tarflow.errors import DataError
from tarflow.tokenizers.tokenizer import Tokenizer

UNLABELLED = -1
"""Stands in files and splits for the label of an image that has none."""


@dataclass(frozen=True)
class ImageData(DividedData):
    """A data set of images, divided into parts; see `DividedData` for the other attributes.

    Attributes:
        image_shape: Channels, height and width of an image as it is stored.
    """

    noun: ClassVar[str] = "images"

    image_shape: tuple[int, int, int]

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        return self.image_shape

    @property
    def determined(self) -> dict[str, Any]:
        channels, *size = self.codec.encoded_shape(self.image_shape)
        sizes = {"image_size": tuple(size), "num_channels": channels}
        classes = {"num_classes": self.num_classes, "class_names": self.class_names}
        return {**sizes, **classes, **self.codec.told}

    def with_tokenizer(self, tokenizer: Tokenizer) -> "ImageData":
        """This data set, for models of the latents that a tokenizer makes of its images.

        Of prepared latents, it is another tokenizer of the same ones, with a decoder of its own.

        Raises:
            DataError: The tokenizer is for other images, or has other latents.
        """
        prepared = isinstance(self.codec, Tokenizer)
        shape = tokenizer.latent_shape if prepared else tokenizer.image_shape
        for what, needed, found in (
            ("shape", shape, self.image_shape),
            *tokenizer.compared(self.codec),
        ):
            if needed != found:
                raise DataError(
                    f"{self.name} has {what} {found}, but the tokenizer is for {needed}: give one"
                    " that was made for this data"
                )
        return replace(self, codec=tokenizer)

    def for_training(self, validation_fraction: float, horizontal_flip: bool) -> "ImageData":
        """Set a fraction of the training images aside, by their `labels`; mirror in training."""
        parts = self.parts
        if validation_fraction:
            labels = np.asarray(parts["train"].labels)
            parts = complete_parts(parts, labels, 0.0, validation_fraction)
        augment = mirror if horizontal_flip else None
        train, validation = parts["train"], parts.get("val")
        return replace(self, train=train, validation=validation, augment=augment)


def check_images(data: DividedData) -> ImageData:
    """Refuse, by a `DataError`, what does not hold images."""
    if not isinstance(data, ImageData):
        raise DataError(f"{data.name} holds {data.noun}, and this is for images")
    return data


class LabelledImages(Dataset, ABC):
    """Images, each with a label or all without; subclasses tell how one is read.

    Args:
        labels: The label of each image; all `UNLABELLED` where there are none.
    """

    def __init__(self, labels: Shaped[Any, " num"]):
        self.labels = labels
        self.labelled = bool((labels != UNLABELLED).any())

    @abstractmethod
    def image(self, index: int) -> Shaped[Tensor, "channels height width"]:
        """The image of an index."""

    def context(self, label: int) -> dict[str, int]:
        """What an image is conditioned on; among labelled ones, one without a label: the null."""
        return {"label": label} if self.labelled else {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        context = self.context(int(self.labels[index]))
        return self.image(index), context


class ArrayDataset(LabelledImages):
    """Images and labels held in memory, or in a file mapped to memory, as arrays or tensors.

    Args:
        images: All images, as they are stored.
        labels: A label for each; all `UNLABELLED` where there are none.

    Raises:
        DataError: There are more labels than images, or fewer.
    """

    def __init__(self, images: Shaped[Any, "num ..."], labels: Shaped[Any, " any"]):
        super().__init__(labels)
        if len(images) != len(labels):
            raise DataError(
                f"{len(labels)} labels for {len(images)} images: give one label for each image"
            )
        self.images = images

    def image(self, index: int) -> Shaped[Tensor, "channels height width"]:
        return self.images[index]

    def __getitems__(self, indices: list[int]) -> list[Example]:
        """Read a batch with one indexing operation; the DataLoader looks for this method."""
        contexts = map(self.context, self.labels[indices].tolist())
        return list(zip(torch.as_tensor(self.images[indices]), contexts, strict=True))


def check_levels(levels: int) -> None:
    """Refuse numbers of levels that bytes do not have, with a `DataError`."""
    check_integer("levels", levels, kind=DataError)
    if not 2 <= levels <= 256:
        raise DataError(f"levels {levels} is out of range: choose 2 ... 256")


def count_classes(
    labels: Mapping[str, Integer[Any, " num"]], num_classes: int | None, origin: str
) -> int:
    """The number of classes of the labels of each part.

    Args:
        labels: Those of each part; all `UNLABELLED` where there are none.
        num_classes: The number, where it is known; it may count classes without images.
        origin: Whose labels they are, for messages.

    Raises:
        DataError: A label is out of range; or the number is to be found, but a class has no
            training image: it would be sampled, and averaged into the null, without being trained.
    """
    found = {part: set(np.unique(np.asarray(given)).tolist()) for part, given in labels.items()}
    every = sorted(set().union(*found.values()) - {UNLABELLED})
    if num_classes is not None:
        if every and every[-1] >= num_classes:
            raise DataError(
                f"the labels of {origin} go to {every[-1]}; allowed is 0 ... {num_classes - 1}"
                " (num_classes)"
            )
        return num_classes
    count = every[-1] + 1 if every else 0
    missing = next((label for label in range(count) if label not in found["train"]), None)
    if missing is not None:
        raise DataError(
            f"the labels of {origin} go from {every[0]} to {every[-1]}, but no training image is"
            f" of class {missing}: number the classes from 0 without gaps, as by"
            " numpy.unique(labels, return_inverse=True)[1], or pass"
            f" num_classes={count} to keep classes without images"
        )
    return count
