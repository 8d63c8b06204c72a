"""What every data set provides: images as integers, labels, and a fixed split."""

from dataclasses import dataclass

from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.errors import DataError

UNLABELLED = -1
"""The label of an image that has none; models read it as "no class"."""


@dataclass(frozen=True)
class ImageData:
    """A data set of images, divided into parts.

    Every part yields an image as bytes, of shape `image_shape`, and an integer label:
    `UNLABELLED` where there are no classes. Noise is for the model to add, on its own device.

    Attributes:
        name: What the data is, its version and how it was divided: what a reported number names.
        train: Images to fit.
        validation: Images to choose by; None when no part was set aside.
        test: Images to report on, never to choose by.
        levels: Number of values that a pixel takes: 0 ... levels - 1.
        num_classes: Number of classes; 0 for data without labels.
        image_shape: Channels, height and width of an image.
        class_names: A name for each class, where classes have names.
    """

    name: str
    train: Dataset
    validation: Dataset | None
    test: Dataset
    levels: int
    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()


class ArrayDataset(Dataset):
    """Images and labels held in memory, or in a file mapped to memory.

    Args:
        images: All images, as bytes.
        labels: A label for each.

    Raises:
        DataError: There are more labels than images, or fewer.
    """

    def __init__(
        self, images: UInt8[Tensor, "num channels height width"], labels: Int[Tensor, " any"]
    ):
        if len(images) != len(labels):
            raise DataError(
                f"{len(labels)} labels for {len(images)} images: give one label for each image"
            )
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "channels height width"], int]:
        return self.images[index], int(self.labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Read a batch with one indexing operation; the DataLoader looks for this method."""
        return list(zip(self.images[indices], self.labels[indices].tolist(), strict=True))
