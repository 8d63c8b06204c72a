"""Images in NumPy's files, .npz and .npy."""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Subset

from tarflow.data.images import UNLABELLED, ArrayDataset, ImageData
from tarflow.data.splits import GIVEN_SPLIT, MADE_SPLIT, complete_parts
from tarflow.errors import DataError

KEYS = (
    "images, and labels if there are any; or train_images and test_images, if you like"
    " val_images, and train_labels, ... for a split of your own"
)
MAX_CHANNELS = 4
"""An axis this short is taken for channels, not for height or width."""


def arrays(
    path: str | Path,
    levels: int = 256,
    num_classes: int | None = None,
    num_channels: int | None = None,
    channels_last: bool | None = None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.1,
) -> ImageData:
    """Read integer images, and labels if there are any, from a NumPy file.

    A .npy file holds images alone and stays on disk, mapped to memory. A .npz file holds `images`
    and perhaps `labels`, or such arrays for each part: `train_images`, `train_labels`,
    `test_images`, ... (and `val_images`, ...). Images are of shape (number, height, width), or
    have channels as their second or last axis.

    Args:
        path: The file.
        levels: Number of values that a pixel takes: 0 ... levels - 1.
        num_classes: Number of classes; by default, one more than the largest label.
        num_channels: Number of channels that is expected, if any is.
        channels_last: Whether channels are the last axis; by default, they are the short one.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        test_fraction: Fraction of all images that is held out, if the file has no test images.

    Raises:
        DataError: The file is missing, unreadable or has other keys; images or labels are of
            another kind, shape or range; or an argument is out of range.
    """
    if not 2 <= levels <= 256:
        raise DataError(f"levels {levels} is out of range: choose 2 ... 256")
    file = Path(path).expanduser()
    given: dict[str, Dataset] = {}
    for part, (pixels, labels) in _group(file, _load(file)).items():
        images = _read_images(pixels, levels, channels_last)
        given[part] = ArrayDataset(images, _read_labels(labels, len(images), num_classes))
    shape = _common_shape(given, num_channels)
    labels = given["train"].labels.numpy()
    parts = complete_parts(given, labels, Subset, test_fraction, validation_fraction)
    if num_classes is None:
        num_classes = 1 + max(int(dataset.labels.max()) for dataset in given.values())
    return ImageData(
        name=f"{file.resolve()}, {GIVEN_SPLIT if 'test' in given else MADE_SPLIT}",
        train=parts["train"],
        validation=parts.get("val"),
        test=parts["test"],
        levels=levels,
        num_classes=num_classes,
        image_shape=shape,
    )
