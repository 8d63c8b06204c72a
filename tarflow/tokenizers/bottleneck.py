"""Bottlenecks: what lies between an encoder and a decoder, and makes latents of few bits."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from tarflow.randomness import RandomSource
from tarflow.registry import Part
from tarflow.tokenizers.tokenizer import Latents

Hidden = Float[Tensor, "batch channels height width"]
"""What an encoder makes of images, before the bottleneck."""
Codes = Int[Tensor, "batch latent_height latent_width"]
"""Index of the code at each position of latents."""


@dataclass(frozen=True)
class Squeezed:
    """What training gets from a bottleneck.

    Attributes:
        latents: What the decoder gets, noise included.
        loss: What the bottleneck adds to the loss of each image, which is a mean over dimensions,
            as is the squared error that it is added to.
        codes: Index of the code at each position; None where latents are continuous.
        logged: What to log, by name, for each image.
    """

    latents: Latents
    loss: Float[Tensor, " batch"]
    codes: Codes | None
    logged: Mapping[str, Float[Tensor, " batch"]]


class Squeeze(nn.Module, ABC):
    """The module of a bottleneck, with its weights if it has any; the same in all modes."""

    @abstractmethod
    def forward(self, hidden: Hidden, source: RandomSource = None) -> Squeezed:
        """What training needs; a bottleneck with noise draws it from the source."""

    @abstractmethod
    def latents(self, hidden: Hidden) -> Latents:
        """The latents themselves, without noise."""

    def snapped(self, latents: Latents) -> Latents:
        """The nearest latents that the decoder was trained with: those of codes, if there are."""
        return latents


class Bottleneck(Part, ABC):
    """Describes a bottleneck: makes its module.

    Attributes:
        num_channels: Number of channels of latents.
        num_codes: Number of codes that a position of latents can be; None where it is continuous.
        decodes_noise: Standard deviation of the noise in latents that a decoder learns to remove.
            Unless it is 0, the units of latents are those of the noise, and are left as they are.
    """

    num_channels: int
    num_codes: int | None = None
    decodes_noise: ClassVar[float] = 0.0

    @property
    def num_inputs(self) -> int:
        """Number of channels that the encoder has to make."""
        return self.num_channels

    @abstractmethod
    def module(self) -> Squeeze:
        """Make the module."""
