"""How many of its codes a quantizer uses."""

import torch
from jaxtyping import Int
from torch import Tensor

Counts = Int[Tensor, " num_codes"]
"""How often each code was used: a sum over batches and processes."""


def count_codes(codes: Int[Tensor, "..."], num_codes: int) -> Counts:
    """How often each code occurs.

    Args:
        codes: Indices of codes.
        num_codes: Number of codes that there are.
    """
    flat = codes.flatten()  # `bincount` would wait for the device, for the largest
    return flat.new_zeros(num_codes, dtype=torch.int64).scatter_add_(
        0, flat.long(), torch.ones_like(flat, dtype=torch.int64)
    )


def share_in_use(counts: Counts) -> float:
    """Share of codes that occur at all.

    Example:
        >>> share_in_use(torch.tensor([4, 4, 0, 0]))
        0.5
    """
    return (counts > 0).double().mean().item()


def perplexity(counts: Counts) -> float:
    r"""Number of codes that would be as surprising if used equally often: $e^H$ of their usage.

    It is 1 where there is one code, or none was counted.

    Example:
        >>> round(perplexity(torch.tensor([4, 4, 0, 0])), 9)
        2.0
    """
    usage = counts.double() / counts.sum().clamp(min=1)
    return torch.special.entr(usage).sum().exp().item()
