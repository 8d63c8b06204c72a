"""What is compared: tokenizers that differ in their bottleneck alone."""

from dataclasses import dataclass
from typing import Any

from tarflow.data import ImageData
from tarflow.tokenizers import (
    Autoencoder,
    FiniteScalar,
    FixedVariance,
    GaussianBottleneck,
    LinearCodebook,
    RotationTrick,
    VectorQuantized,
)
from tarflow.tokenizers.bottleneck import Bottleneck

SIZES: dict[str, Any] = {"factor": 4, "width": 32, "num_blocks": 1}
"""Of every autoencoder: 32 x 32 become 8 x 8 positions."""
NUM_CHANNELS = 4
NUM_CODES = 1024
"""Ten bits a position; FSQ has 8 * 5 * 5 * 5 = 1,000."""


@dataclass(frozen=True)
class Recipe:
    """A tokenizer to compare.

    Attributes:
        name: What it is called in files.
        words: What it is called in tables.
        bottleneck: What it differs from the others by.
    """

    name: str
    words: str
    bottleneck: Bottleneck

    def make(self, data: ImageData) -> Autoencoder:
        """A new autoencoder of images."""
        channels, *size = data.image_shape
        pixels: Any = data.codec
        return Autoencoder((size[0], size[1]), channels, self.bottleneck, pixels=pixels, **SIZES)

    @property
    def settings(self) -> dict[str, Any]:
        """All of it, as JSON gives it back."""
        return {"bottleneck": repr(self.bottleneck), **SIZES}


_CODES: dict[str, Any] = {"num_channels": NUM_CHANNELS, "num_codes": NUM_CODES}
_ROTATED: dict[str, Any] = {**_CODES, "gradient": RotationTrick()}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("kl", "KL", GaussianBottleneck(NUM_CHANNELS)),
        Recipe("fixed_variance", "fixed variance", FixedVariance()),
        Recipe("vq", "VQ, straight-through", VectorQuantized(**_CODES)),
        Recipe("vq_rotation", "VQ, rotation trick", VectorQuantized(**_ROTATED)),
        Recipe("linear", "VQ, linear map", LinearCodebook(**_CODES)),
        Recipe("linear_rotation", "VQ, linear map and rotation", LinearCodebook(**_ROTATED)),
        Recipe("fsq", "FSQ", FiniteScalar((8, 5, 5, 5))),
    )
}
"""By name."""
