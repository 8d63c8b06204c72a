"""What a decoder minimizes that is tuned on noisy latents."""

import math
from typing import ClassVar

import torch

from tarflow.arguments import check_real
from tarflow.errors import ConfigurationError
from tarflow.randomness import RandomSource, normal
from tarflow.tokenizers.autoencoder import Reconstruction
from tarflow.tokenizers.tokenizer import Images, Tokenizer
from tarflow.training.tokenization.tokenizer_objective import TokenizerObjective


class DecoderObjective(TokenizerObjective):
    r"""The distance of images from those that are decoded of noisy latents.

    The decoder gets $x + \sigma \epsilon$ with the $\sigma$ that it is to remove, the tokenizer's
    `decodes_noise`. The encoder only tells x: see `to_tune`.

    Args:
        distance: As for `TokenizerObjective`.
    """

    learns_latents: ClassVar[bool] = False

    def num_codes(self, tokenizer: Tokenizer) -> None:
        return None

    def reconstruct(
        self, tokenizer: Tokenizer, images: Images, source: RandomSource
    ) -> Reconstruction:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # as `encode`
            x = tokenizer.normalized(tokenizer.to_latents(images))
        noise = normal(x.shape, source, x.dtype, x.device, "noise")
        decoded = tokenizer.images(x + tokenizer.decodes_noise * noise)
        return Reconstruction(x, x.new_zeros(len(x)), codes=None, logged={}, images=decoded)


def to_tune(tokenizer: Tokenizer, noise_std: float) -> Tokenizer:
    """Another tokenizer of the same latents, whose decoder alone learns, to remove noise.

    Args:
        tokenizer: The tokenizer, which stays as it is.
        noise_std: Standard deviation of the noise in x that decoding is to remove.

    Raises:
        ConfigurationError: The noise is out of range, or the tokenizer has no decoder to tune.
    """
    noise_std = float(check_real("noise_std", noise_std))
    if not 0 < noise_std < math.inf:
        raise ConfigurationError(f"noise_std {noise_std} must be finite and positive")
    name, description = tokenizer.described
    decoder = dict(tokenizer.named_children()).get("decoder")
    if decoder is None or not hasattr(description, "decodes_noise"):
        raise ConfigurationError(f"a {name} has no decoder that could be tuned")
    tuned = tokenizer.kind(**{**vars(description), "decodes_noise": noise_std})
    tuned.load_state_dict(tokenizer.state_dict())
    assert isinstance(tuned, Tokenizer)
    tuned.requires_grad_(False).get_submodule("decoder").requires_grad_(True)
    return tuned
