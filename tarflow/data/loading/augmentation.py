"""What training makes of its images, on the device: always the same of a seed."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from tarflow.randomness import RandomSource, uniform

Augmentation = Callable[[Shaped[Tensor, "batch ..."], RandomSource], Shaped[Tensor, "batch ..."]]
"""Makes other images of a batch of stored ones; all draws come from the source."""


def mirror(
    stored: Shaped[Tensor, "batch channels height width"], source: RandomSource
) -> Shaped[Tensor, "batch channels height width"]:
    """Mirror every second image, on average, left to right."""
    drawn = uniform((len(stored),), source, torch.float32, stored.device, "mirror") < 0.5
    return stored.flip(-1).where(drawn.view(-1, 1, 1, 1), stored)
