"""Images and labels in arrays of integers."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tarflow.arguments import check_integer
from tarflow.data.images import UNLABELLED, ArrayDataset, ImageData, check_levels, count_classes
from tarflow.data.loading.splits import GIVEN_SPLIT, MADE_SPLIT, complete_parts
from tarflow.data.storage.array_files import find_parts, load_arrays
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.registry import register

MAX_CLASSES = 1_000_000
"""Labels from this on are not taken for numbers of classes."""

MAX_CHANNELS = 4
"""An axis this short is taken for channels, as is a shorter one than the sides of a square."""


@register
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

    A .npy file holds images alone and stays on disk. A .npz file holds `images` and perhaps
    `labels`, or `train_images`, `test_images` and perhaps `val_images`, and perhaps the labels of
    each. Images are of shape (number, height, width), or have a second or last axis of channels.

    Args:
        path: The file.
        levels: Number of values that a pixel takes: 0 ... levels - 1.
        num_classes: Number of classes; by default, one more than the largest label, and labels
            that leave a class without a training image are refused.
        num_channels: Number of channels that is expected, if any is.
        channels_last: Whether channels are the last axis; by default, the short axis is.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        test_fraction: Fraction of all images that is held out, if the file has no test images.

    Raises:
        DataError: The file is missing, unreadable or has other arrays; images or labels are of
            another kind, shape or range; or an argument is out of range.
    """
    check_levels(levels)
    for name, count in {"num_classes": num_classes, "num_channels": num_channels}.items():
        if count is not None:
            check_integer(name, count, 0, DataError)
    file = Path(path).expanduser()
    loaded = load_arrays(file)
    given = {}
    for part, beginning in find_parts(file, loaded).items():
        images = _read_images(loaded, f"{beginning}images", levels, channels_last)
        labels = _read_labels(loaded, f"{beginning}labels", len(images), num_classes)
        given[part] = ArrayDataset(images, labels)
    shape = _common_shape(given, num_channels)
    labels = {part: dataset.labels for part, dataset in given.items()}
    count = count_classes(labels, num_classes, str(file))
    return ImageData.of(
        f"{file.resolve()}, {GIVEN_SPLIT if 'test' in given else MADE_SPLIT}",
        complete_parts(given, labels["train"].numpy(), test_fraction, validation_fraction),
        codec=Pixels(levels),
        num_classes=count,
        image_shape=shape,
    )


def _read_images(
    loaded: dict[str, np.ndarray], name: str, levels: int, channels_last: bool | None
) -> UInt8[Tensor, "num channels height width"]:
    """Check an array of images, and see it as bytes with channels first."""
    pixels = loaded[name]
    if not np.issubdtype(pixels.dtype, np.integer):
        raise DataError(
            f"{name} have dtype {pixels.dtype}, but pixels are integers 0 ... {levels - 1}:"
            " undo any scaling and convert them with .astype('uint8')"
        )
    if pixels.ndim not in (3, 4) or not pixels.size:
        raise DataError(
            f"{name} have shape {pixels.shape}: expected (number, height, width), with channels"
            " as the second or last axis if there are any, and no axis of length 0"
        )
    _check_range(name, pixels, levels)
    images = torch.from_numpy(pixels.astype(np.uint8, copy=False))
    if images.ndim == 3:
        return images.unsqueeze(1)
    if channels_last is None:
        channels_last = _find_channels(name, pixels.shape)
    return images.movedim(-1, 1) if channels_last else images


def _read_labels(
    loaded: dict[str, np.ndarray], name: str, num_images: int, num_classes: int | None
) -> Int[Tensor, " num"]:
    """Check an array of labels; where there is none, all images are unlabelled."""
    if name not in loaded:
        if num_classes:
            raise DataError(f"num_classes is {num_classes}, but there are no {name}: leave it out")
        return torch.full((num_images,), UNLABELLED)
    labels = loaded[name]
    if labels.size != num_images or labels.shape[:1] != (num_images,):
        raise DataError(
            f"{name} have shape {labels.shape}, but there are {num_images} images: give one label"
            " for each image"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{name} have dtype {labels.dtype}, but labels are integers 0, 1, ...")
    limit = MAX_CLASSES if num_classes is None else num_classes
    if labels.min() < 0 or labels.max() >= limit:
        allowed = f"0 or more, below {limit:,}"
        if num_classes is not None:
            allowed = f"0 ... {limit - 1} (num_classes)"
        raise DataError(f"{name} go from {labels.min()} to {labels.max()}; allowed is {allowed}")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def _check_range(name: str, pixels: np.ndarray, levels: int) -> None:
    """Refuse pixels out of range; of bytes of 256 levels none are, and a look reads the file."""
    if pixels.dtype == np.uint8 and levels == 256:
        return
    low, high = pixels.min(), pixels.max()
    if low < 0 or high >= levels:
        raise DataError(
            f"{name} go from {low} to {high}, but with {levels} levels pixels are 0 ..."
            f" {levels - 1}: shift them, or pass levels={high + 1}"
        )


def _find_channels(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether channels are the last axis, from which axis is short."""
    first, last = shape[1] <= MAX_CHANNELS, shape[3] <= MAX_CHANNELS
    if not first and not last:
        first = shape[1] < shape[2] == shape[3]
        last = shape[3] < shape[1] == shape[2]
    if first == last:
        raise DataError(
            f"{name} have shape {shape}, which does not tell where channels are: pass"
            " channels_last=True or channels_last=False"
        )
    return last


def _common_shape(
    parts: dict[str, ArrayDataset], num_channels: int | None
) -> tuple[int, int, int]:
    """The shape that images of all parts have."""
    shapes = {part: tuple(dataset.images.shape[1:]) for part, dataset in parts.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        raise DataError(f"images differ in channels, height or width: {listed}; make them equal")
    channels, height, width = shapes["train"]
    if num_channels not in (None, channels):
        raise DataError(
            f"images have {channels} channels, but num_channels is {num_channels}: convert the"
            f" images, or pass num_channels={channels}"
        )
    return channels, height, width
