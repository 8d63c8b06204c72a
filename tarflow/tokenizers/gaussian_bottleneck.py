"""Latents as Gaussians of learned mean and variance, close to the standard normal one."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from tarflow.arguments import check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.randomness import RandomSource, normal
from tarflow.tokenizers.bottleneck import Bottleneck, Hidden, Squeeze, Squeezed
from tarflow.tokenizers.tokenizer import Latents

LOG_VARIANCES = (-30.0, 20.0)
"""Bounds of the logarithm of a variance, beyond which its exponential is of no use."""


@dataclass(frozen=True)
class GaussianBottleneck(Bottleneck):
    r"""The encoder tells mean $\mu$ and variance $\sigma^2$ of each number (arXiv 1312.6114).

    Training decodes a draw, and adds to the loss $\beta$ times the divergence from the standard
    normal distribution, $(\mu^2 + \sigma^2 - 1 - \ln \sigma^2) / 2$, a mean over the dimensions of
    latents. Latents are the means.

    Attributes:
        num_channels: Number of channels of latents.
        weight: Factor $\beta$; more of it makes latents smoother and images blurred.

    Raises:
        ConfigurationError: A number is out of range.
    """

    num_channels: int = 4
    weight: float = 1e-4

    def __post_init__(self):
        keep(self, num_channels=check_integer("num_channels", self.num_channels, least=1))
        keep(self, weight=check_real("weight", self.weight))
        if not 0 <= self.weight < math.inf:
            raise ConfigurationError(f"weight {self.weight} must be finite and not negative")

    @property
    def num_inputs(self) -> int:
        return 2 * self.num_channels

    def module(self) -> Squeeze:
        return LearnedGaussian(self.weight)


class Gaussian(Squeeze, ABC):
    """Draws latents from a Gaussian, and weighs its divergence from the standard normal one."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    @abstractmethod
    def moments(self, hidden: Hidden) -> tuple[Latents, Latents]:
        """Mean and logarithm of the variance."""

    def forward(self, hidden: Hidden, source: RandomSource = None) -> Squeezed:
        mean, log_variance = self.moments(hidden)
        noise = normal(mean.shape, source, mean.dtype, mean.device, "latents")
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
        kl = divergence.flatten(1).mean(dim=1)
        latents = mean + (log_variance / 2).exp() * noise
        return Squeezed(latents, self.weight * kl, None, {"kl": kl})

    def latents(self, hidden: Hidden) -> Latents:
        return self.moments(hidden)[0]


class LearnedGaussian(Gaussian):
    """Half of the channels are means, the others logarithms of variances."""

    def moments(self, hidden: Hidden) -> tuple[Latents, Latents]:
        mean, log_variance = hidden.chunk(2, dim=1)
        return mean, torch.clamp(log_variance, *LOG_VARIANCES)
