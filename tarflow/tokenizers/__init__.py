"""Tokenizers: codecs with weights, which map images to latents and back."""

from tarflow.tokenizers.autoencoder import Autoencoder, Reconstruction
from tarflow.tokenizers.bottleneck import Bottleneck, Squeeze, Squeezed
from tarflow.tokenizers.code_gradients import CodeGradient, RotationTrick, StraightThrough
from tarflow.tokenizers.code_usage import count_codes, perplexity, share_in_use
from tarflow.tokenizers.codebook import Codebook, CodebookBottleneck
from tarflow.tokenizers.diffusers_autoencoder import DiffusersAutoencoder, KLConfig
from tarflow.tokenizers.finite_scalar import FiniteScalar
from tarflow.tokenizers.fixed_variance import FixedVariance
from tarflow.tokenizers.gaussian_bottleneck import GaussianBottleneck
from tarflow.tokenizers.identity_tokenizer import IdentityTokenizer
from tarflow.tokenizers.linear_codebook import LinearCodebook
from tarflow.tokenizers.tokenizer import Tokenizer
from tarflow.tokenizers.vector_quantized import VectorQuantized

__all__ = [
    "Autoencoder",
    "Bottleneck",
    "CodeGradient",
    "Codebook",
    "CodebookBottleneck",
    "DiffusersAutoencoder",
    "FiniteScalar",
    "FixedVariance",
    "GaussianBottleneck",
    "IdentityTokenizer",
    "KLConfig",
    "LinearCodebook",
    "Reconstruction",
    "RotationTrick",
    "Squeeze",
    "Squeezed",
    "StraightThrough",
    "Tokenizer",
    "VectorQuantized",
    "count_codes",
    "perplexity",
    "share_in_use",
]
