"""Random bytes in the shape of a data set: a stand-in to try configurations and speed with."""

import numpy as np
import torch
from torch.utils.data import Dataset

from tarflow.arguments import check_integer
from tarflow.data.images import Example, ImageData
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.registry import register


class RandomImages(Dataset):
    """Images of independent, uniform pixels; each is made as it is read, and always the same.

    Args:
        count: Number of images.
        image_shape: Channels, height and width of an image.
        num_classes: Number of classes; 0 for images without labels.
        levels: Number of values that a pixel takes.
        seed: What the images follow from.
    """

    def __init__(
        self,
        count: int,
        image_shape: tuple[int, int, int],
        num_classes: int,
        levels: int,
        seed: int,
    ):
        self.count = count
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.levels = levels
        self.seed = seed

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
    counts = {"num_train": num_train, "num_test": num_test, "image_size": image_size}
    for name, count in {**counts, "num_channels": num_channels}.items():
        check_integer(name, count, 1, DataError)
    for name, count in {"levels": levels, "num_classes": num_classes, "seed": seed}.items():
        check_integer(name, count, None, DataError)
    if not 2 <= levels <= 256 or num_classes < 0 or seed < 0:
        raise DataError(
            f"levels {levels}, num_classes {num_classes} and seed {seed}: choose 2 ... 256 levels,"
            " and 0 or more of the others"
        )
    shape = (num_channels, image_size, image_size)
    train, test = (
        RandomImages(count, shape, num_classes, levels, 2 * seed + part)
        for part, count in enumerate((num_train, num_test))
    )
    return ImageData(
        name=f"random bytes in place of images, seed {seed}",
        train=train,
        validation=None,
        test=test,
        codec=Pixels(levels),
        num_classes=num_classes,
        image_shape=shape,
    )
