"""A tokenizer without a network to train: means of squares of pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tarflow import Part, Pixels, Tokenizer


@dataclass(frozen=True)
class PooledDescription(Part):
    """The arguments of a `Pooled`."""

    image_size: int
    num_channels: int
    factor: int
    pixels: Pixels
    decodes_noise: float


class Pooled(Tokenizer):
    """Means of squares of pixels, which its decoder repeats, mixed by a matrix of channels."""

    def __init__(
        self,
        image_size: int,
        num_channels: int = 3,
        factor: int = 2,
        pixels: Pixels = Pixels(),
        decodes_noise: float = 0.0,
    ):
        told = PooledDescription(image_size, num_channels, factor, pixels, decodes_noise)
        side = image_size // factor
        shapes = (num_channels, image_size, image_size), (num_channels, side, side)
        super().__init__(*shapes, pixels, decodes_noise, told)
        self.factor = factor
        self.gain = nn.Parameter(torch.ones(num_channels, 1, 1))
        self.decoder = nn.Conv2d(num_channels, num_channels, 1)
        nn.init.dirac_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    def to_latents(self, images: Tensor) -> Tensor:
        return self.gain * nn.functional.avg_pool2d(images, self.factor)

    def to_images(self, latents: Tensor) -> Tensor:
        images = self.decoder(latents / self.gain)
        return nn.functional.interpolate(images, scale_factor=self.factor)
