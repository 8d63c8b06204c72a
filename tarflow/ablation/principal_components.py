"""Features of images with many pixels: coordinates along the axes in which they vary most."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.evaluation.extractors import Extractor
from tarflow.flows.codec import Codec, Stored


@dataclass(frozen=True, eq=False)
class PrincipalComponents(Extractor):
    """Coordinates along the principal axes of training images, in units of the range of pixels.

    Attributes:
        mean: The mean of the training images.
        axes: The axes, those of the least variance first.
    """

    mean: Float[Tensor, " dims"]
    axes: Float[Tensor, "dims count"]

    @classmethod
    def of(cls, train: Stored, count: int) -> "PrincipalComponents":
        """The axes in which stored images vary most, all of them where there are no more."""
        flat = train.flatten(1).double()
        mean = flat.mean(dim=0)
        if len(flat) >= flat.shape[1]:
            return cls(mean, torch.linalg.eigh(flat.T.cov()).eigenvectors[:, -count:])
        rows = torch.linalg.svd(flat - mean, full_matrices=False).Vh  # the smaller problem
        return cls(mean, rows[:count].T.flip(1))

    @property
    def identity(self) -> dict[str, Any]:
        return {"extractor": "principal components", "count": self.axes.shape[1]}

    def check(self, image_shape: tuple[int, int, int]) -> None:
        pass

    def __call__(self, stored: Stored, codec: Codec) -> Float[Tensor, "batch features"]:
        largest: Any = getattr(codec, "largest", 1)
        return (stored.flatten(1).double() - self.mean) @ self.axes / largest
