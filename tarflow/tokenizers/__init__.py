"""Tokenizers: codecs with weights, which map images to latents and back."""

from tarflow.tokenizers.diffusers_autoencoder import DiffusersAutoencoder, KLConfig
from tarflow.tokenizers.identity_tokenizer import IdentityTokenizer
from tarflow.tokenizers.tokenizer import Tokenizer

__all__ = ["DiffusersAutoencoder", "IdentityTokenizer", "KLConfig", "Tokenizer"]
