"""Tiny autoencoders with random weights, of every bottleneck."""

from typing import Any

import torch

from tarflow.tokenizers import (
    Autoencoder,
    FiniteScalar,
    FixedVariance,
    GaussianBottleneck,
    LinearCodebook,
    RotationTrick,
    VectorQuantized,
)

from ..models import randomized

CODEBOOKS = {
    "vector quantization": VectorQuantized(3, 16),
    "rotation trick": VectorQuantized(3, 16, RotationTrick(), commitment=0.4),
    "linear map": LinearCodebook(3, 16),
    "linear map, rotation trick": LinearCodebook(3, 16, RotationTrick(), commitment=0.4),
}
QUANTIZERS = {**CODEBOOKS, "finite scalars": FiniteScalar((8, 5, 3))}
BOTTLENECKS = {
    **QUANTIZERS,
    "Gaussian": GaussianBottleneck(3),
    "fixed variance": FixedVariance(3),
}


def tiny_autoencoder(bottleneck: str = "Gaussian", **options: Any) -> Autoencoder:
    """An autoencoder of 8 x 16 images."""
    told = {"image_size": (8, 16), "width": 8, "bottleneck": BOTTLENECKS[bottleneck]}
    return randomized(Autoencoder(**(told | options)), std=0.2)


def some_images(count: int = 6) -> torch.Tensor:
    """Bytes for these autoencoders."""
    return torch.randint(256, (count, 3, 8, 16), dtype=torch.uint8)
