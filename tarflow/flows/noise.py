"""Noise added to data before a density is fitted to it, and the units of likelihoods."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tarflow.arguments import check_integer, check_real
from tarflow.errors import ConfigurationError
from tarflow.randomness import RandomSource, normal, uniform
from tarflow.registry import Part


@dataclass(frozen=True)
class Noise(Part, ABC):
    """Maps integers 0 ... levels - 1 to noisy numbers around [-1, 1], and back.

    Attributes:
        levels: Number of values that a datum takes; 256 for 8-bit images.
    """

    levels: int = 256

    def __post_init__(self):
        check_integer("levels", self.levels, least=2)

    @abstractmethod
    def __call__(
        self,
        pixels: Shaped[Tensor, "batch ..."],
        source: RandomSource = None,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "batch ..."]:
        """Scale integers and add noise, on the device they are on."""

    @abstractmethod
    def to_pixels(self, x: Float[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
        """The integers nearest to x; values out of range are clamped."""

    def _clamp(self, pixels: Tensor) -> Tensor:
        """Keep integers within range and store them as bytes where they fit."""
        clamped = pixels.clamp(0, self.levels - 1)
        return clamped.to(torch.uint8 if self.levels <= 256 else torch.int32)


@dataclass(frozen=True)
class UniformDequantization(Noise):
    r"""$v = 2 (x + u) / L - 1$ with $u \sim U[0, 1)$: for likelihoods of discrete data."""

    def __call__(self, pixels, source=None, dtype=torch.float32):
        u = uniform(pixels.shape, source, dtype, pixels.device, "noise")
        return 2 * (pixels.to(dtype) + u) / self.levels - 1

    def to_pixels(self, x):
        return self._clamp(((x + 1) / 2 * self.levels).floor())

    def bits_per_dim(
        self, log_prob: Float[Tensor, " batch"], num_dims: int
    ) -> Float[Tensor, " batch"]:
        r"""Bits per dimension: $-\log p(v) / (D \ln 2) + \log_2(L / 2)$.

        The uniform density on $[-1, 1]^D$ scores exactly $\log_2 L$.

        Example:
            >>> UniformDequantization(256).bits_per_dim(torch.tensor([-3 * math.log(2)]), 3)
            tensor([8.])

        Args:
            log_prob: Log-density of dequantized data, in nats.
            num_dims: Number of dimensions D of an example.
        """
        return -log_prob / (num_dims * math.log(2)) + math.log2(self.levels / 2)


@dataclass(frozen=True)
class GaussianNoise(Noise):
    r"""$2 x / (L - 1) - 1 + \sigma \epsilon$: for samples. Its likelihood is not one of pixels.

    Attributes:
        std: Standard deviation $\sigma$, in units in which data spans [-1, 1].
    """

    std: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        check_real("noise std", self.std)
        if not 0 <= self.std < math.inf:
            raise ConfigurationError(f"noise std {self.std} must be finite and not negative")

    def __call__(self, pixels, source=None, dtype=torch.float32):
        x = 2 * pixels.to(dtype) / (self.levels - 1) - 1
        return x + self.std * normal(pixels.shape, source, dtype, pixels.device, "noise")

    def to_pixels(self, x):
        return self._clamp(((x + 1) / 2 * (self.levels - 1)).round())
