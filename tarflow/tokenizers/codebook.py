"""Latents that are vectors of a codebook."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from tarflow.arguments import check_instance, check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.randomness import RandomSource
from tarflow.tokenizers.bottleneck import Bottleneck, Hidden, Squeeze, Squeezed
from tarflow.tokenizers.code_gradients import CodeGradient, StraightThrough, Vectors
from tarflow.tokenizers.tokenizer import Latents

AT_A_TIME = 2**22
"""Distances that are held at a time, so that any number of codes fits the memory."""


@dataclass(frozen=True)
class CodebookBottleneck(Bottleneck, ABC):
    r"""Every position of latents is the code q that is nearest to the encoder's vector e.

    Training adds $|\mathrm{sg}(e) - q|^2 + \beta |e - \mathrm{sg}(q)|^2$ to the loss, a mean over
    the dimensions of latents; sg is constant to the gradient. Nothing but gradients moves codes:
    no averages and no revivals, so that training does not depend on modes or processes.

    Attributes:
        num_channels: Number of channels of latents, the length of a code.
        num_codes: Number of codes.
        gradient: How gradients pass from codes to the encoder.
        commitment: Factor $\beta$, by which the encoder is drawn to its codes.

    Raises:
        ConfigurationError: A number is out of range, or the gradient is something else.
    """

    num_channels: int = 4
    num_codes: int = 1024
    gradient: CodeGradient = StraightThrough()
    commitment: float = 0.25

    def __post_init__(self):
        keep(self, num_channels=check_integer("num_channels", self.num_channels, least=1))
        keep(self, num_codes=check_integer("num_codes", self.num_codes, least=2))
        hint = "pass tarflow.tokenizers.StraightThrough() or RotationTrick()"
        check_instance("gradient", self.gradient, CodeGradient, hint)
        keep(self, commitment=check_real("commitment", self.commitment))
        if not 0 <= self.commitment < math.inf:
            raise ConfigurationError(
                f"commitment {self.commitment} must be finite and not negative"
            )


class Codebook(Squeeze, ABC):
    """Replaces vectors by the nearest of its codes."""

    def __init__(self, described: CodebookBottleneck):
        super().__init__()
        self.gradient, self.commitment = described.gradient, described.commitment

    @property
    @abstractmethod
    def codes(self) -> Float[Tensor, "num_codes latent_channels"]:
        """All codes."""

    def forward(self, hidden: Hidden, source: RandomSource = None) -> Squeezed:
        batch, _, height, _ = hidden.shape
        vectors, codes = rearrange(hidden, "b c h w -> (b h w) c"), self.codes
        indices = nearest(vectors, codes)
        quantized = functional.embedding(indices, codes)
        to_vectors = (vectors.detach() - quantized).square()
        to_codes = (vectors - quantized.detach()).square()
        loss = to_vectors + self.commitment * to_codes
        latents = self.gradient(vectors, quantized)
        return Squeezed(
            rearrange(latents, "(b h w) c -> b c h w", b=batch, h=height),
            reduce(loss, "(b n) c -> b", "mean", b=batch),
            rearrange(indices, "(b h w) -> b h w", b=batch, h=height),
            {"quantization_error": reduce(to_codes.detach(), "(b n) c -> b", "mean", b=batch)},
        )

    def latents(self, hidden: Hidden) -> Latents:
        return self.snapped(hidden)

    def snapped(self, latents: Latents) -> Latents:
        batch, _, height, _ = latents.shape
        codes = self.codes
        indices = nearest(rearrange(latents, "b c h w -> (b h w) c"), codes)
        quantized = functional.embedding(indices, codes)
        return rearrange(quantized, "(b h w) c -> b c h w", b=batch, h=height)


@torch.no_grad()
def nearest(
    vectors: Vectors, codes: Float[Tensor, "num_codes latent_channels"]
) -> Int[Tensor, " rows"]:
    """Index of the code that is nearest to each vector; the first of them, if there are more."""
    # Without products of matrices, whose rounding would let codes depend on the rest of the batch.
    exact = "donot_use_mm_for_euclid_dist"
    parts = vectors.split(max(1, AT_A_TIME // len(codes)))
    found = [torch.cdist(part, codes, compute_mode=exact).argmin(dim=1) for part in parts]
    return torch.cat(found)
