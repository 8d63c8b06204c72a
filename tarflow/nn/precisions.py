"""Precisions: what transformers compute in, by name."""

from dataclasses import dataclass
from functools import cached_property

import torch

from tarflow.errors import ConfigurationError
from tarflow.nn.products import has_half_kernels, has_kernels


@dataclass(frozen=True)
class Precision:
    """What a transformer computes in.

    Example:
        >>> str(Precision.of(torch.float16)), Precision.of("bfloat16_products").dtype
        ('float16', torch.float32)

    Attributes:
        name: How settings and plans call it.
        dtype: Of its tensors: what layers hand on, keys and values, norms and sums.
        products: Of the numbers that the linear layers of its blocks multiply.
        weights: Of the weights of these layers.
    """

    name: str
    dtype: torch.dtype
    products: torch.dtype
    weights: torch.dtype

    @classmethod
    def of(cls, value: torch.dtype | str) -> "Precision":
        """The precision of a name, or that of all in one dtype.

        Raises:
            ConfigurationError: There is none; names those there are.
        """
        name = str(value).removeprefix("torch.")
        if name not in PRECISIONS:
            names = ", ".join([*map(str, DTYPES), *(each.name for each in MIXED)])
            raise ConfigurationError(f"dtype {value}: choose one of {names}")
        return PRECISIONS[name]

    def __str__(self) -> str:
        """Its name."""
        return self.name

    @cached_property
    def eps(self) -> float:
        """Its relative rounding error, the coarsest that it has."""
        return max(torch.finfo(each).eps for each in (self.dtype, self.products, self.weights))

    def suits(self, device: torch.device) -> bool:
        """Whether a device has instructions for it; for float32 every one has."""
        if self.weights in (torch.float32, torch.float64):
            return True
        if self.weights != self.products:
            return device.type == "cpu" and has_half_kernels()
        if device.type == "cpu":
            return has_kernels(self.products)
        if device.type == "cuda" and self.products == torch.bfloat16:
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return self.products == torch.float16


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

MIXED = (
    Precision("bfloat16_products", torch.float32, torch.bfloat16, torch.bfloat16),
    Precision("float16_weights", torch.float32, torch.float32, torch.float16),
)
"""Those of float32 tensors that layers round, to multiply them."""

PURE = (Precision(str(dtype).removeprefix("torch."), *(dtype,) * 3) for dtype in DTYPES)

PRECISIONS = {each.name: each for each in (*PURE, *MIXED)}
"""All precisions, by name."""
