"""Handwritten digits of 8 x 8 pixels, which come with scikit-learn: a data set for trials."""

import torch

from tarflow.data.images import ArrayDataset, ImageData
from tarflow.data.loading.splits import MADE_SPLIT, complete_parts
from tarflow.flows.codec import Pixels
from tarflow.registry import register

TEST_FRACTION = 360 / 1_797


@register
def digits(validation_fraction: float = 0.0) -> ImageData:
    """The 1,797 test digits of UCI's "optdigits": ten classes, and 17 levels, not 256.

    The 360 test images are always the same.

    Args:
        validation_fraction: Fraction of the 1,437 training images that is set aside to choose by.

    Raises:
        DataError: The fraction is not in [0, 1), or too small for ten classes.

    Example:
        >>> data = digits()
        >>> len(data.train), len(data.test), data.codec, data.image_shape
        (1437, 360, Pixels(levels=17), (1, 8, 8))
    """
    import sklearn
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8)
    dataset = ArrayDataset(images, torch.from_numpy(labels))
    return ImageData.of(
        f"digits (scikit-learn {sklearn.__version__}), {MADE_SPLIT}",
        complete_parts({"train": dataset}, labels, TEST_FRACTION, validation_fraction),
        codec=Pixels(17),
        num_classes=10,
        image_shape=(1, 8, 8),
        class_names=tuple("0123456789"),
    )
