"""Quantization of every number by itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from tarflow.arguments import check_integer, keep, shown
from tarflow.errors import ConfigurationError
from tarflow.randomness import RandomSource
from tarflow.tokenizers.bottleneck import Bottleneck, Hidden, Squeeze, Squeezed
from tarflow.tokenizers.code_gradients import with_gradient
from tarflow.tokenizers.quantizers import quantizers
from tarflow.tokenizers.tokenizer import Latents


@dataclass(frozen=True)
class FiniteScalar(Bottleneck):
    r"""Every number is bounded by tanh and rounded to one of L levels (arXiv 2309.15505).

    Gradients pass the rounding as if it were not there. There is no codebook and no loss; the
    $\prod L_i$ codes of a position are all combinations of levels. Needs the package
    vector-quantize-pytorch.

    Attributes:
        levels: Number of levels $L_i$ of each channel of latents.

    Raises:
        ConfigurationError: There is no channel, or a channel has fewer than 3 levels.
    """

    levels: Sequence[int] = (8, 5, 5, 5)

    def __post_init__(self):
        if not isinstance(self.levels, tuple | list) or not self.levels:
            raise ConfigurationError(
                f"levels {shown(self.levels)} must be a number for each channel, such as (8, 5, 5)"
            )
        keep(self, levels=tuple(check_integer("levels", each, least=3) for each in self.levels))

    @property
    def num_channels(self) -> int:
        return len(self.levels)

    @property
    def num_codes(self) -> int:
        return math.prod(self.levels)

    def module(self) -> Squeeze:
        return FiniteScalars(tuple(self.levels))


class FiniteScalars(Squeeze):
    """Rounds numbers to levels."""

    levels: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.quantizer = quantizers().FSQ(levels, return_indices=False)
        # Among the weights, so that other levels are other latents; see `latents_sha256`.
        self.register_buffer("levels", torch.tensor(levels)[:, None, None])

    def forward(self, hidden: Hidden, source: RandomSource = None) -> Squeezed:
        rounded, _ = self.quantizer(hidden)
        latents = with_gradient(self.snapped(rounded), rounded)
        codes = self.quantizer.codes_to_indices(rearrange(latents, "b c h w -> b h w c"))
        return Squeezed(latents, hidden.new_zeros(len(hidden)), codes, {})

    def latents(self, hidden: Hidden) -> Latents:
        rounded, _ = self.quantizer(hidden)
        return self.snapped(rounded)

    def snapped(self, latents: Latents) -> Latents:
        half = self.levels // 2
        return (latents * half).round().clamp(-half, self.levels - 1 - half) / half
