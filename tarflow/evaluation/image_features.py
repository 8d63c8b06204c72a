"""What images are compared by: features, and whether a classifier agrees with their labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor
from torch.utils.data import Dataset

from tarflow.data import ImageData
from tarflow.data.loading.batches import read_batch
from tarflow.evaluation.extractors import Extractor
from tarflow.evaluation.provenance import digests
from tarflow.evaluation.work import Rows
from tarflow.flows.codec import Pixels

GAMMA = 0.256
"""Sharpness of the classifier's kernel for pixels in [0, 1]: that of scikit-learn's digits."""
SMALL = 10_000_000
"""Pixels in the training images that the classifier learns at most."""


@dataclass(frozen=True)
class ImageFeatures:
    """Makes features of images, and has a classifier tell their labels.

    Attributes:
        data: The data set whose training images the classifier has learned.
        extractors: What makes features, by name.
        device: Where that is computed.
    """

    data: ImageData
    extractors: Mapping[str, Extractor]
    device: torch.device

    def __call__(self, stored: Tensor, label: Tensor | None) -> Rows:
        """Features of images by extractor, and whether the classifier agrees with their labels."""
        stored = stored.to(self.device)
        columns = {
            name: extractor(stored, self.data.codec).cpu().numpy()
            for name, extractor in self.extractors.items()
        }
        if self.classifier is not None and label is not None:
            told = self.classifier.predict(_flat(stored))
            columns["correct"] = told == label.numpy(force=True)
        return columns

    @torch.no_grad()
    def of_part(self, part: Dataset, indices: range) -> Rows:
        """Those of some images of a data set, and their digests."""
        batch = read_batch(part, indices)
        return {**self(batch.x, batch.context.label), "digest": digests(batch)}

    @cached_property
    def classifier(self) -> SVC | None:
        """A support vector machine with an RBF kernel, where the data is small and has labels."""
        train: Any = self.data.train
        is_small = len(train) * prod(self.data.image_shape) <= SMALL
        if not (self.data.num_classes and is_small and isinstance(self.data.codec, Pixels)):
            return None
        batch = read_batch(train, range(len(train)))
        gamma: Any = GAMMA / self.data.codec.largest**2
        return SVC(gamma=gamma).fit(_flat(batch.x), batch.context["label"].numpy())


def _flat(stored: Tensor) -> np.ndarray:
    """Images as rows."""
    return stored.flatten(1).numpy(force=True)
