"""Random bytes in the shape of a data set: a stand-in to try configurations and speed with."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from tarflow.arguments import check_integer
from tarflow.data.images import ImageData, check_levels
from tarflow.data.loading.batches import Example
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.registry import register


@dataclass(frozen=True)
class RandomImages(Dataset):
    """Images of independent, uniform pixels; each is made as it is read, and always the same."""

    count: int
    image_shape: tuple[int, int, int]
    num_classes: int
    levels: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, index))
        context = {"label": int(generator.integers(self.num_classes))} if self.num_classes else {}
        pixels = generator.integers(0, self.levels, self.image_shape, np.uint8)
        return torch.from_numpy(pixels), context


@register
def random_images(
    num_train: int = 10_000,
    num_test: int = 1_000,
    image_size: int = 64,
    num_channels: int = 3,
    num_classes: int = 10,
    levels: int = 256,
    seed: int = 0,
) -> ImageData:
    """Random bytes in place of images, to try any experiment without its data; they take no room.

    No model can do better on them than log2(levels) bits/dim.

    Args:
        num_train: Number of training images.
        num_test: Number of other images.
        image_size: Height and width.
        num_channels: Number of channels.
        num_classes: Number of classes; 0 for images without labels.
        levels: Number of values that a pixel takes: 0 ... levels - 1.
        seed: What the images follow from.

    Raises:
        DataError: An argument is out of range.

    Example:
        >>> data = random_images(num_train=1_281_167, image_size=32)
        >>> image, context = data.train[1_000_000]
        >>> len(data.train), image.shape
        (1281167, torch.Size([3, 32, 32]))
    """
    counts = {"train": num_train, "test": num_test}
    positive = {"num_train": num_train, "num_test": num_test, "image_size": image_size}
    for name, value in {**positive, "num_channels": num_channels}.items():
        check_integer(name, value, 1, DataError)
    for name, value in {"num_classes": num_classes, "seed": seed}.items():
        check_integer(name, value, 0, DataError)
    check_levels(levels)
    shape = (num_channels, image_size, image_size)
    return ImageData.of(
        f"random bytes in place of images, seed {seed}",
        {
            part: RandomImages(count, shape, num_classes, levels, 2 * seed + stream)
            for stream, (part, count) in enumerate(counts.items())
        },
        codec=Pixels(levels),
        num_classes=num_classes,
        image_shape=shape,
    )
