"""The precisions in which benchmarks compute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

BACKENDS: dict[str, Any] = {
    "bf16": torch.backends.mkldnn.matmul,  # pyright: ignore[reportAttributeAccessIssue]
    "tf32": torch.backends.cuda.matmul,
}
"""What multiplies matrices of float32 in a lower precision when told to."""


@dataclass(frozen=True)
class Precision:
    """How transformers compute.

    Attributes:
        name: What options and tables call it.
        dtype: Of weights and activations.
        tolerance: Largest residual of windowed decoding: above the rounding of the precision.
        products: Precision in which matrices of float32 are multiplied, where it is a lower one.
        least: Rate of matrix products, of float32's, below which it is not worth measuring.
    """

    name: str
    dtype: torch.dtype
    tolerance: float
    products: str = ""
    least: float = 1 / 5

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Multiply in this precision within the context; the dtype is the caller's to use."""
        if not self.products:
            yield
            return
        backend = BACKENDS[self.products]
        before = backend.fp32_precision
        backend.fp32_precision = self.products
        try:
            yield
        finally:
            backend.fp32_precision = before


PRECISIONS = {
    each.name: each
    for each in (
        Precision("float32", torch.float32, 1e-3),
        Precision("float32-bf16", torch.float32, 1e-1, products="bf16", least=1.2),
        Precision("float32-tf32", torch.float32, 1e-2, products="tf32", least=1.2),
        Precision("bfloat16", torch.bfloat16, 1e-1),
        Precision("float16", torch.float16, 1e-2),
    )
}
"""All of them; those with `products` keep tensors in float32 and accumulate in it."""

OF_DEVICES = {
    "cpu": ("float32", "float32-bf16", "bfloat16"),
    "cuda": ("float32", "float32-tf32", "bfloat16", "float16"),
}
"""For each type of device, those that it may multiply fast."""


def worth_measuring(
    names: Sequence[str], shares: dict[str, float]
) -> tuple[tuple[Precision, ...], list[str]]:
    """The precisions that a machine multiplies fast, and a sentence on each other one.

    Args:
        names: Of precisions; one alone is taken in any case.
        shares: Their rates of matrix products, of that of float32.
    """
    asked = [PRECISIONS[name] for name in names]
    taken = [p for p in asked if len(asked) == 1 or shares[p.name] >= p.least]
    notes = [
        f"{p} was left out: matrix products reach {100 * shares[p.name]:.1f} % of float32's rate"
        f" here, less than {100 * p.least:.0f} %; --precision {p} measures it"
        for p in asked
        if p not in taken
    ]
    return tuple(taken), notes
