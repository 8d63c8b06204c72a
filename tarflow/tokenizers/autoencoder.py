"""A small convolutional autoencoder, with a bottleneck of any kind."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tarflow.arguments import check_instance, check_integer, check_real, check_size, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Pixels, UniformDequantization
from tarflow.randomness import RandomSource
from tarflow.registry import Part
from tarflow.tokenizers.bottleneck import Bottleneck, Squeezed
from tarflow.tokenizers.convolutions import (
    NUM_GROUPS,
    convolutional_decoder,
    convolutional_encoder,
)
from tarflow.tokenizers.gaussian_bottleneck import GaussianBottleneck
from tarflow.tokenizers.tokenizer import Images, Latents, Tokenizer


@dataclass(frozen=True)
class AutoencoderDescription(Part):
    """The arguments of an `Autoencoder`, checked."""

    image_size: int | tuple[int, int]
    num_channels: int
    bottleneck: Bottleneck
    factor: int
    width: int
    num_blocks: int
    pixels: Pixels
    decodes_noise: float

    def __post_init__(self):
        keep(self, image_size=check_size("image_size", self.image_size))
        for name in ("num_channels", "width", "num_blocks", "factor"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        keep(self, decodes_noise=check_real("decodes_noise", self.decodes_noise))
        hint = "pass tarflow.tokenizers.GaussianBottleneck(), say"
        check_instance("bottleneck", self.bottleneck, Bottleneck, hint)
        check_instance("pixels", self.pixels, Pixels, "pass Pixels(256) for images of bytes")
        if isinstance(self.pixels, UniformDequantization):
            raise ConfigurationError(
                f"pixels {self.pixels} are drawn, but encoding draws nothing: pass"
                f" Pixels({self.pixels.levels})"
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Refuse numbers that do not fit each other."""
        if self.factor < 2 or self.factor & (self.factor - 1):
            raise ConfigurationError(f"factor {self.factor} must be a power of 2, and at least 2")
        if any(side % self.factor for side in self.latent_size(1)):
            raise ConfigurationError(
                f"image_size {self.image_size} must be a multiple of the factor {self.factor}"
            )
        if self.width % NUM_GROUPS:
            raise ConfigurationError(f"width {self.width} must be a multiple of {NUM_GROUPS}")
        if not 0 <= self.decodes_noise < math.inf:
            raise ConfigurationError(
                f"decodes_noise {self.decodes_noise} must be finite and not negative"
            )

    def latent_size(self, factor: int) -> tuple[int, int]:
        """Height and width of images, divided by a factor."""
        height, width = check_size("image_size", self.image_size)
        return height // factor, width // factor

    @property
    def widths(self) -> list[int]:
        """Number of channels at each size, from the largest to that of latents."""
        return [self.width * min(2**i, 4) for i in range(self.factor.bit_length() - 1)]


@dataclass(frozen=True)
class Reconstruction(Squeezed):
    """What training gets from an autoencoder: images, and what its bottleneck tells.

    Attributes:
        images: Images, decoded from the latents; not clamped.
    """

    images: Images


class Autoencoder(Tokenizer):
    r"""Maps images to fewer positions with more channels, through a bottleneck, and back.

    Encoder and decoder are small convolutional residual networks, made for images of about 32 x 32
    on a CPU. For large images use an autoencoder that was trained by others.

    Args:
        image_size: Height and width of images, or one number for both.
        num_channels: Number of their channels.
        bottleneck: What makes latents of the encoder's output, and how many channels these have.
        factor: What height and width are divided by: a power of 2.
        width: Number of channels at half the size of images; twice and four times as many below.
        num_blocks: Number of residual blocks at each size, of the encoder and of the decoder.
        pixels: How images are stored.
        decodes_noise: Standard deviation of noise in x that the decoder was tuned to remove; 0
            for that of the bottleneck.

    Raises:
        ConfigurationError: A number is out of range, or they do not fit each other.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        num_channels: int = 3,
        bottleneck: Bottleneck = GaussianBottleneck(),
        factor: int = 4,
        width: int = 32,
        num_blocks: int = 1,
        pixels: Pixels = Pixels(),
        decodes_noise: float = 0.0,
    ):
        told = AutoencoderDescription(
            image_size, num_channels, bottleneck, factor, width, num_blocks, pixels, decodes_noise
        )
        image_shape = (told.num_channels, *told.latent_size(1))
        latent_shape = (bottleneck.num_channels, *told.latent_size(told.factor))
        removed = told.decodes_noise or bottleneck.decodes_noise
        super().__init__(image_shape, latent_shape, told.pixels, removed, told)
        sizes = (told.widths, told.num_blocks)
        self.bottleneck = bottleneck
        self.encoder = convolutional_encoder(told.num_channels, bottleneck.num_inputs, *sizes)
        self.squeeze = bottleneck.module()
        self.decoder = convolutional_decoder(bottleneck.num_channels, told.num_channels, *sizes)

    @property
    def num_codes(self) -> int | None:
        """Number of codes that a position of latents can be; None where it is continuous."""
        return self.bottleneck.num_codes

    def reconstruct(self, images: Images, source: RandomSource = None) -> Reconstruction:
        """Images through encoder, bottleneck and decoder, as training needs them.

        Args:
            images: Images in the units of `Pixels.encode`.
            source: Where the bottleneck draws its noise from, if it has any.
        """
        hidden = self.encoder(images)
        with torch.autocast(hidden.device.type, enabled=False):
            wide = torch.promote_types(hidden.dtype, torch.float32)
            squeezed = self.squeeze(hidden.to(wide), source)
        return Reconstruction(**vars(squeezed), images=self.decoder(squeezed.latents))

    def to_latents(self, images: Images) -> Latents:
        return self.squeeze.latents(self.encoder(images))

    def to_images(self, latents: Latents) -> Images:
        return self.decoder(latents if self.decodes_noise else self.squeeze.snapped(latents))

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Set shift and scale, as of any tokenizer, unless the bottleneck's noise has the units.

        Raises:
            DataError: There are no images, or a channel is the same in all of them.
        """
        if not self.bottleneck.decodes_noise:
            super().measure(batches)
