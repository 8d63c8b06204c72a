"""Vector quantization with a codebook of learned vectors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.tokenizers.codebook import Codebook, CodebookBottleneck


@dataclass(frozen=True)
class VectorQuantized(CodebookBottleneck):
    """Every code is a learned vector of its own (arXiv 1711.00937).

    Only codes that are nearest to something learn, so that many may never be used.
    """

    def module(self) -> Codebook:
        return LearnedCodebook(self)


class LearnedCodebook(Codebook):
    """Codes that are weights."""

    def __init__(self, described: VectorQuantized):
        super().__init__(described)
        # vector-quantize-pytorch has a codebook that learns, but with one weight for both terms
        # of the loss, in float32 alone, and without a loss in evaluation.
        self.weight = nn.Parameter(torch.empty(described.num_codes, described.num_channels))
        bound = 1 / described.num_codes
        nn.init.uniform_(self.weight, -bound, bound)

    @property
    def codes(self) -> Float[Tensor, "num_codes latent_channels"]:
        return self.weight
