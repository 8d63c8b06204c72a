"""Tokenizers: codecs with weights, which map images to latents and back."""

from tarflow.tokenizers.autoencoder import Autoencoder, Reconstruction
from tarflow.tokenizers.bottleneck import Bottleneck, Squeeze, Squeezed
from tarflow.tokenizers.diffusers_autoencoder import DiffusersAutoencoder, KLConfig
from tarflow.tokenizers.fixed_variance import FixedVariance
from tarflow.tokenizers.gaussian_bottleneck import GaussianBottleneck
from tarflow.tokenizers.identity_tokenizer import IdentityTokenizer
from tarflow.tokenizers.tokenizer import Tokenizer

__all__ = [
    "Autoencoder",
    "Bottleneck",
    "DiffusersAutoencoder",
    "FixedVariance",
    "GaussianBottleneck",
    "IdentityTokenizer",
    "KLConfig",
    "Reconstruction",
    "Squeeze",
    "Squeezed",
    "Tokenizer",
]
