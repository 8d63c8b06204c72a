"""What every tokenizer provides: images as latents of about variance 1, and back."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tarflow.errors import DataError
from tarflow.flows.codec import Codec, Pixels, Stored
from tarflow.flows.pretrained import Pretrained
from tarflow.flows.shapes import Examples
from tarflow.randomness import RandomSource
from tarflow.registry import Part

Images = Float[Tensor, "batch channels height width"]
"""Images in the units of `Pixels.encode`: black is -1, white 1."""
Latents = Float[Tensor, "batch latent_channels latent_height latent_width"]
"""What a network makes of images, before shift and scale."""

AT_A_TIME = 2**21
"""Pixels that are encoded or decoded at a time, so that any number of images fits the memory."""


class Tokenizer(Pretrained, Codec, ABC):
    r"""Maps images to latents and back: a codec with weights.

    The x of an image is $s (e - m)$ with latents e and a shift m and a scale s of each channel,
    which `measure` finds; they and the weights are kept in the pretrained folder, and in that of
    every flow of such latents. What is stored may be images, or latents that were prepared before:
    x itself, in the shape of latents. Encoding draws nothing, and is the same in training.

    Whatever decodes alone is in the submodule `decoder`: two tokenizers that differ in nothing
    else have the same latents.

    Args:
        image_shape: Channels, height and width of an image.
        latent_shape: Those of its latents.
        pixels: How images are stored.
        decodes_noise: Standard deviation of noise in x that decoding removes; 0 for a decoder of
            clean latents.
        description: The arguments of the class.
    """

    dim: ClassVar[str] = "latent_dim"
    shift: Float[Tensor, " latent_channels 1 1"]
    scale: Float[Tensor, " latent_channels 1 1"]

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_shape: tuple[int, int, int],
        pixels: Pixels,
        decodes_noise: float,
        description: Part,
    ):
        super().__init__()
        self.image_shape, self.latent_shape = image_shape, latent_shape
        self.pixels = pixels
        self.decodes_noise = decodes_noise
        self.num_dims = math.prod(image_shape)
        self.description = description
        self.kind = type(self)
        self.register_buffer("shift", torch.zeros(latent_shape[0], 1, 1))
        self.register_buffer("scale", torch.ones(latent_shape[0], 1, 1))

    @property
    def num_codes(self) -> int | None:
        """Number of codes that a position of latents can be; None where it is continuous."""
        return None

    @abstractmethod
    def to_latents(self, images: Images) -> Latents:
        """The latents of images, before shift and scale."""

    @abstractmethod
    def to_images(self, latents: Latents) -> Images:
        """The images of latents, whatever noise these hold."""

    def encode(
        self, stored: Stored, source: RandomSource = None, dtype: torch.dtype = torch.float32
    ) -> Examples:
        if stored.is_floating_point() and tuple(stored.shape[1:]) == self.latent_shape:
            return stored.to(dtype)
        if tuple(stored.shape[1:]) != self.image_shape:
            raise DataError(
                f"this tokenizer reads images of shape {self.image_shape}, or latents of shape"
                f" {self.latent_shape} that `tarflow prepare` wrote, not {stored.dtype} of shape"
                f" {tuple(stored.shape[1:])}"
            )
        with torch.autocast(self.scale.device.type, enabled=False):
            parts = (self.normalized(self.to_latents(part)) for part in self._images(stored))
            return torch.cat(list(parts)).to(stored.device, dtype)

    def decode(self, x: Examples) -> Stored:
        with torch.autocast(self.scale.device.type, enabled=False):
            parts = x.to(self.scale).split(self._rows)
            decoded = [self.pixels.decode(self.images(part)) for part in parts]
            return torch.cat(decoded).to(x.device)

    def to_bytes(self, stored: Stored) -> UInt8[Tensor, "batch ..."]:
        stored = self.decode(stored) if stored.is_floating_point() else stored
        return self.pixels.to_bytes(stored)

    def normalized(self, latents: Latents) -> Examples:
        """Latents, shifted and scaled."""
        return (latents - self.shift) * self.scale

    def images(self, x: Examples) -> Images:
        """The images of x, before they are rounded: gradients go through."""
        return self.to_images(x / self.scale + self.shift)

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Set shift and scale so that every channel of x has mean 0 and variance 1 on images.

        Raises:
            DataError: There are no images, or a channel is the same in all of them.
        """
        count, total, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
        for stored in batches:
            for part in self._images(stored):
                latents = self.to_latents(part).double()
                count += latents[:, 0].numel()
                total = total + latents.sum(dim=(0, 2, 3))
                squares = squares + latents.square().sum(dim=(0, 2, 3))
        if not count:
            raise DataError("there are no images to measure latents on")
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        if not (std > 0).all():
            channel = int((~(std > 0)).nonzero()[0])
            raise DataError(f"channel {channel} of the latents is the same in all images")
        self.shift.copy_(mean[:, None, None])
        self.scale.copy_(1 / std[:, None, None])

    def encoded_shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        return stored if stored != self.image_shape else self.latent_shape

    def decoded_shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        return self.image_shape

    @property
    def itemsize(self) -> int:
        return self.pixels.itemsize

    def compared(self, other: Codec) -> Iterator[tuple[str, Any, Any]]:
        if isinstance(other, Tokenizer):
            yield "latents", self.latents_sha256, other.latents_sha256
        else:
            yield from self.pixels.compared(other)

    def held(self) -> "Tokenizer":
        return self.requires_grad_(False)

    @property
    def latents_sha256(self) -> str:
        """What tells latents apart: a hash of all that they depend on, and on no decoder."""
        found = hashlib.sha256(type(self).__name__.encode())
        for name, value in sorted(self.state_dict().items()):
            if not name.startswith("decoder."):
                found.update(f"{name} {tuple(value.shape)}".encode())
                found.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def words(self) -> str:
        return f"{type(self).__name__}, latents {self.latents_sha256}"

    @property
    def _rows(self) -> int:
        """Number of images that are encoded or decoded at a time."""
        return max(1, AT_A_TIME // math.prod(self.image_shape[1:]))

    def _images(self, stored: Stored) -> Iterator[Images]:
        """Stored images in the units of the network, some at a time."""
        for part in stored.split(self._rows):
            yield self.pixels.encode(part.to(self.scale.device), dtype=self.scale.dtype)
