"""Vector quantization with a codebook that is a learned linear map of a random one."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tarflow.tokenizers.codebook import Codebook, CodebookBottleneck
from tarflow.tokenizers.quantizers import quantizers


@dataclass(frozen=True)
class LinearCodebook(CodebookBottleneck):
    """Codes are C W with C random and frozen, and W learned (arXiv 2411.02038).

    Every step moves all codes, so that none is left behind. Needs the package
    vector-quantize-pytorch.
    """

    def module(self) -> Codebook:
        return MappedCodebook(self)


class MappedCodebook(Codebook):
    """Codes that a learned map makes of a frozen codebook."""

    def __init__(self, described: LinearCodebook):
        super().__init__(described)
        self.quantizer = quantizers().SimVQ(described.num_channels, described.num_codes)

    @property
    def codes(self) -> Float[Tensor, "num_codes latent_channels"]:
        return self.quantizer.codebook
