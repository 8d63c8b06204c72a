"""Which class each image was taken for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tarflow.data.images import UNLABELLED
from tarflow.evaluation.reporting import mean_and_error

Counts = Int[np.ndarray, "num_classes num_classes"]
"""How many images of the class of each row were taken for the class of each column."""


@dataclass(frozen=True)
class Predictions:
    """The class of each image, and numbers of which the largest is that of the class it shows.

    Attributes:
        label: The classes.
        scores: The numbers, one for each class.
        known: Which images could be read and have a class.
    """

    label: Int[np.ndarray, " count"]
    scores: Float[np.ndarray, "count num_classes"]
    known: Bool[np.ndarray, " count"]

    @property
    def finite(self) -> Bool[np.ndarray, " count"]:
        """Which images have numbers."""
        return np.asarray(np.isfinite(self.scores).all(axis=1))

    @property
    def predicted(self) -> Int[np.ndarray, " count"]:
        """The class that each image was taken for; `UNLABELLED` where that is not known."""
        return np.where(self.finite, self.scores.argmax(axis=1), UNLABELLED)

    @property
    def summary(self) -> dict[str, Any]:
        """Accuracy with its error, confusions, and how many images are left out."""
        counted = self.known & self.finite
        label, predicted = self.label[counted], self.predicted[counted]
        accuracy = mean_and_error(torch.from_numpy(label == predicted))
        lost = int((self.known & ~self.finite).sum())
        counts = self._counts(label, predicted).tolist()
        return {"accuracy": accuracy, "confusion": counts, "non_finite": lost}

    def _counts(self, label: np.ndarray, predicted: np.ndarray) -> Counts:
        """Confusions."""
        size = self.scores.shape[1]
        return np.bincount(label * size + predicted, minlength=size**2).reshape(size, size)


def table_of(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Confusions as text, under the names of classes; a dot stands for none."""
    cells = [["", *names]]
    cells += [[n, *(str(c or ".") for c in row)] for n, row in zip(names, counts, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ([cell.rjust(w) for cell, w in zip(row, widths, strict=True)] for row in cells)
    return "\n".join(map("  ".join, rows))
