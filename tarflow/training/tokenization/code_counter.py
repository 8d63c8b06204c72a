"""Counts of the codes that a run uses."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from tarflow.tokenizers.code_usage import Counts, count_codes, perplexity, share_in_use
from tarflow.training.distillation.together import summed


class CodeCounter(nn.Module):
    """Counts how often each code is used, by all processes of a run together.

    Args:
        num_codes: Number of codes.
    """

    counts: Counts

    def __init__(self, num_codes: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_codes, dtype=torch.int64))

    def add(
        self, codes: Int[Tensor, "rows height width"], counted: Bool[Tensor, ""] | bool = True
    ) -> None:
        """Count codes, or none of them; all processes have to."""
        self.counts += summed(count_codes(codes, len(self.counts))) * counted

    def reset(self) -> None:
        """Begin anew."""
        self.counts.zero_()

    @property
    def told(self) -> dict[str, float]:
        """How the codes are used, by the names in logs."""
        return {"codes_in_use": share_in_use(self.counts), "perplexity": perplexity(self.counts)}
