"""Latents with noise of one variance, which flows are trained with as well."""

import math
from dataclasses import dataclass

import torch

from tarflow.arguments import check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.tokenizers.bottleneck import Bottleneck, Hidden, Squeeze
from tarflow.tokenizers.gaussian_bottleneck import Gaussian
from tarflow.tokenizers.tokenizer import Latents


@dataclass(frozen=True)
class FixedVariance(Bottleneck):
    r"""The encoder tells the mean; its noise has one variance (arXiv 2512.04084).

    Training decodes $\mu + \sigma \epsilon$. The entropy of the noise is constant, so that only
    $\beta \mu^2 / 2$ of the divergence from the standard normal distribution is left to learn:
    without it the means would grow until the noise is nothing. Latents are the means, in units in
    which the decoder removes noise of $\sigma$: train flows with `GaussianNoise(std)`.

    Attributes:
        num_channels: Number of channels of latents.
        std: Standard deviation $\sigma$ of the noise.
        weight: Factor $\beta$ of the divergence, a mean over the dimensions of latents.

    Raises:
        ConfigurationError: A number is out of range.
    """

    num_channels: int = 16
    std: float = 0.5
    weight: float = 1e-2

    def __post_init__(self):
        keep(self, num_channels=check_integer("num_channels", self.num_channels, least=1))
        keep(self, std=check_real("std", self.std), weight=check_real("weight", self.weight))
        if not 0 < self.std < math.inf:
            raise ConfigurationError(f"std {self.std} must be finite and positive")
        if not 0 <= self.weight < math.inf:
            raise ConfigurationError(f"weight {self.weight} must be finite and not negative")

    @property
    def decodes_noise(self) -> float:
        return self.std

    def module(self) -> Squeeze:
        return GivenVariance(self.weight, self.std)


class GivenVariance(Gaussian):
    """All channels are means."""

    def __init__(self, weight: float, std: float):
        super().__init__(weight)
        self.std = std

    def moments(self, hidden: Hidden) -> tuple[Latents, Latents]:
        return hidden, torch.full_like(hidden, 2 * math.log(self.std))
