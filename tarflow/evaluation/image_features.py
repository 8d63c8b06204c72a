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

from tarflow.data import ImageData
from tarflow.data.loading.batches import UNREADABLE
from tarflow.data.loading.reading import ReadAhead
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
    """Makes features of images, and has a classifier that knows the data judge their labels."""

    data: ImageData
    extractors: Mapping[str, Extractor]
    device: torch.device

    def __call__(self, stored: Tensor, label: Tensor | None) -> Rows:
        """Features of images by extractor, and whether the classifier agrees with their labels."""
        stored = stored.to(self.device)
        features = {name: f(stored, self.data.codec) for name, f in self.extractors.items()}
        columns = {name: rows.cpu().numpy() for name, rows in features.items()}
        if self.classifier is not None and label is not None:
            columns["correct"] = self.classifier.predict(_flat(stored)) == label.numpy(force=True)
        return columns

    @torch.no_grad()
    def of_part(self, read: ReadAhead, indices: range) -> Rows:
        """Those of some images of a data set, and their digests."""
        batch = read(indices)
        return {**self(batch.x, batch.context.label), "digest": digests(batch)}

    @cached_property
    def classifier(self) -> SVC | None:
        """A support vector machine with an RBF kernel, where the data is small and has labels."""
        train: Any = self.data.train
        is_small = len(train) * prod(self.data.image_shape) <= SMALL
        if not (self.data.num_classes and is_small and isinstance(self.data.codec, Pixels)):
            return None
        batch = ReadAhead(train)(range(len(train)))
        gamma: Any = GAMMA / self.data.codec.largest**2
        kept = batch.index != UNREADABLE
        return SVC(gamma=gamma).fit(_flat(batch.x[kept]), batch.context["label"][kept].numpy())


def _flat(stored: Tensor) -> np.ndarray:
    """Images as rows."""
    return stored.flatten(1).numpy(force=True)
