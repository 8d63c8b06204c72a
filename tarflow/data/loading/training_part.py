"""What is done to training images alone: some are set aside, the others mirrored."""

from dataclasses import replace

import numpy as np
import torch

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
    """Set a fraction of the training images, which have `labels`, aside, and mirror the others.

    Raises:
        DataError: The fraction is out of range, or there is a validation part already.
    """
    if validation_fraction:
        parts = data.parts
        labels = np.asarray(parts["train"].labels)
        parts = complete_parts(parts, labels, 0.0, validation_fraction)
        data = replace(data, train=parts["train"], validation=parts["val"])
    return replace(data, train=Mirrored(data.train)) if horizontal_flip else data
