"""How often the codes of a codebook are used."""

import torch
from jaxtyping import Int, Int64
from torch import Tensor, nn

from tarflow.training.distillation.together import summed


class CodeUsage(nn.Module):
    """Counts how often each code is used, by all processes of a run together.

    Args:
        num_codes: Number of codes.
    """

    counts: Int64[Tensor, " num_codes"]

    def __init__(self, num_codes: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_codes, dtype=torch.int64))

    def add(self, codes: Int[Tensor, "batch height width"]) -> None:
        """Count codes; all processes have to."""
        self.counts += summed(torch.bincount(codes.flatten(), minlength=len(self.counts)))

    def reset(self) -> None:
        """Begin anew."""
        self.counts.zero_()

    @property
    def total(self) -> int:
        """Number of positions that were counted."""
        return int(self.counts.sum())

    @property
    def share(self) -> float:
        """The share of the codes that are used at all; NaN before any is."""
        return float((self.counts > 0).double().mean()) if self.total else torch.nan

    @property
    def perplexity(self) -> float:
        r"""$\exp(-\sum_k p_k \ln p_k)$ of the frequencies p; the number of codes at most."""
        frequencies = self.counts.double() / self.total if self.total else self.counts + torch.nan
        return float(torch.special.entr(frequencies).sum().exp())
