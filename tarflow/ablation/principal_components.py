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
        axes = torch.linalg.eigh(flat.T.cov()).eigenvectors[:, -count:]
        return cls(flat.mean(dim=0), axes)

    @property
    def identity(self) -> dict[str, Any]:
        return {"extractor": "principal components", "count": self.axes.shape[1]}

    def check(self, image_shape: tuple[int, int, int]) -> None:
        pass

    def __call__(self, stored: Stored, codec: Codec) -> Float[Tensor, "batch features"]:
        largest: Any = getattr(codec, "largest", 1)
        return (stored.flatten(1).double() - self.mean) @ self.axes / largest
