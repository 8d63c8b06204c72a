"""Precisions: what transformers compute in, by name."""

from dataclasses import dataclass
from functools import cached_property

import torch

from tarflow.errors import ConfigurationError
from tarflow.nn.packing import has_kernels


@dataclass(frozen=True)
class Precision:
    """What a transformer computes in.

    Example:
        >>> str(Precision.of(torch.float16)), Precision.of("bfloat16_products").dtype
        ('float16', torch.float32)

    Attributes:
        dtype: Of its tensors: what layers hand on, keys and values, norms and sums.
        products: Of the numbers that the linear layers of its blocks multiply.
    """

    dtype: torch.dtype
    products: torch.dtype

    @classmethod
    def of(cls, value: torch.dtype | str) -> "Precision":
        """The precision of a name, or that of tensors of a dtype alone.

        Raises:
            ConfigurationError: There is none; names those there are.
        """
        name = str(value).removeprefix("torch.")
        if name not in PRECISIONS:
            names = ", ".join([*map(str, DTYPES), *(n for n in PRECISIONS if "_" in n)])
            raise ConfigurationError(f"dtype {value}: choose one of {names}")
        return PRECISIONS[name]

    def __str__(self) -> str:
        """Its name."""
        name = str(self.products).removeprefix("torch.")
        return name if self.products == self.dtype else f"{name}_products"

    @cached_property
    def eps(self) -> float:
        """Its relative rounding error, the coarsest that it has."""
        return max(torch.finfo(self.dtype).eps, torch.finfo(self.products).eps)

    def suits(self, device: torch.device) -> bool:
        """Whether a device has instructions for its products; those of float32 all have."""
        if self.products in (torch.float32, torch.float64):
            return True
        if device.type == "cpu":
            return has_kernels(self.products)
        if device.type == "cuda" and self.products == torch.bfloat16:
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return self.products == torch.float16


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

PRECISIONS = {str(dtype).removeprefix("torch."): Precision(dtype, dtype) for dtype in DTYPES}
"""All precisions, by name."""

PRECISIONS["bfloat16_products"] = Precision(torch.float32, torch.bfloat16)
