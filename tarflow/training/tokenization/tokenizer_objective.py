"""What an autoencoder minimizes: the distance of images from their reconstructions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tarflow.arguments import check_instance
from tarflow.data.images import ImageData
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Pixels
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource
from tarflow.registry import Part
from tarflow.tokenizers.autoencoder import Reconstruction
from tarflow.tokenizers.tokenizer import Images
from tarflow.training.distillation.image_distances import Distance, FeatureDistance, SquaredError
from tarflow.training.objective import Loss

LEAST_ERROR = 1e-10
"""Mean squared error of images at which a reconstruction counts as exact, for 106 decibels."""


@dataclass(frozen=True)
class TokenizerLoss(Loss):
    """The loss of a batch of images.

    Attributes:
        codes: Index of the code at each position of their latents; None without a codebook.
    """

    codes: Int[Tensor, "batch height width"] | None = None


class TokenizerObjective(nn.Module, Part):
    """The distance of images from their reconstructions, and what the bottleneck adds.

    The loss of an image is a sum over its dimensions: the distance, and the bottleneck's loss,
    which is a mean, times their number.

    Args:
        distance: A distance of images, by default their squared error. A perceptual one is logged
            as `perceptual` beside `psnr`: what it adds to the loss per dimension.

    Attributes:
        name: What the loss per dimension is called in logs, after `train/` and `val/`.
        learns_latents: Whether the latents of images change as it is minimized.
    """

    name: ClassVar[str] = "loss"
    learns_latents: ClassVar[bool] = True

    def __init__(self, distance: Distance | None = None):
        super().__init__()
        self.distance = SquaredError() if distance is None else distance
        check_instance("distance", self.distance, Distance, "pass one, such as SquaredError()")

    def prepare(self, data: ImageData) -> None:
        """Let the distance learn what it needs from the training part, before training.

        Raises:
            ConfigurationError: The data are no images of pixels, or the distance is not for them.
        """
        if not isinstance(data.codec, Pixels):
            raise ConfigurationError(
                f"tokenizers learn from images of pixels, and {data.name} holds something else"
                f" ({data.codec.words}): give the data that it was made of"
            )
        self.distance.fit(data)

    def num_codes(self, tokenizer: Any) -> int | None:
        """Number of codes whose use is counted; None where there are none."""
        return tokenizer.num_codes

    def forward(self, tokenizer: Any, batch: Batch, source: RandomSource) -> TokenizerLoss:
        """The loss of a batch as it was read; all draws come from the source."""
        target = tokenizer.pixels.encode(batch.x, dtype=tokenizer.scale.dtype)
        found = self.reconstruct(tokenizer, target, source)
        distance = self.distance(found.images.to(target.dtype), target)
        value = distance + tokenizer.num_dims * found.loss
        logged = {**self._told(found.images.detach(), target, distance), **found.logged}
        context = batch.context
        return TokenizerLoss(value, target, context, logged=logged, codes=found.codes)

    def reconstruct(self, tokenizer: Any, images: Images, source: RandomSource) -> Reconstruction:
        """Images, encoded and decoded."""
        return tokenizer.reconstruct(images, source)

    def _told(
        self, images: Examples, target: Examples, distance: PerExample
    ) -> Mapping[str, PerExample]:
        """What to log of images and of their distance from the target."""
        told = {"psnr": signal_to_noise(images, target)}
        if isinstance(self.distance, FeatureDistance):
            squared = (images - target).square().flatten(1).mean(dim=1)
            told["perceptual"] = distance.detach() / target[0].numel()
            told["perceptual"] = told["perceptual"] - self.distance.pixels * squared
        return told


def signal_to_noise(images: Examples, target: Examples) -> PerExample:
    r"""The peak signal-to-noise ratio of each image, in decibels.

    It is $10 \log_{10}(2^2 / e)$ with the mean squared error e of images in [-1, 1], to which they
    are clamped.

    Example:
        >>> signal_to_noise(torch.full((1, 2), 0.2), torch.zeros(1, 2))
        tensor([20.])
    """
    error = (images.clamp(-1, 1) - target).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp(min=LEAST_ERROR))
