"""What is done to training images alone: some are set aside, the others mirrored."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from tarflow.data.images import Example, ImageData
from tarflow.data.loading.batches import Wrapped
from tarflow.data.loading.splits import complete_parts


class Mirrored(Wrapped):
    """Images of which half are mirrored, drawn anew at each reading."""

    def __getitem__(self, index: int) -> Example:
        image, context = self.dataset[index]
        return (image.flip(-1) if torch.rand(1) < 0.5 else image), context


def with_training_part(
    data: ImageData, validation_fraction: float, horizontal_flip: bool
) -> ImageData:
    """Set images aside from the training images, and mirror the others.

    Args:
        data: Data whose training images have an attribute `labels`.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: The fraction is out of range, or there is a validation part already.
    """
    if validation_fraction:
        train: Any = data.train
        parts = {"train": data.train, "test": data.test}
        if data.validation is not None:
            parts["val"] = data.validation
        labels = np.asarray(train.labels)
        parts = complete_parts(parts, labels, Subset, 0.0, validation_fraction)
        data = replace(data, train=parts["train"], validation=parts["val"])
    return replace(data, train=Mirrored(data.train)) if horizontal_flip else data
