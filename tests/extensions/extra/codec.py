"""A codec that spreads dark values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tarflow import Codec
from tarflow.randomness import RandomSource


@dataclass(frozen=True)
class RootPixels(Codec):
    """Integers 0 ... levels - 1 by their square roots, from -1 to 1."""

    levels: int = 256

    def encode(
        self, stored: Tensor, source: RandomSource = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return 2 * (stored.to(dtype) / (self.levels - 1)).sqrt() - 1

    def decode(self, x: Tensor) -> Tensor:
        return (((x.clamp(-1, 1) + 1) / 2) ** 2 * (self.levels - 1)).round().to(torch.uint8)

    def to_bytes(self, stored: Tensor) -> Tensor:
        return (stored.double() * 255 / (self.levels - 1)).round().to(torch.uint8)
