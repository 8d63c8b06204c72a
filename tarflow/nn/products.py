"""Products with packed weights, and which of them this processor has kernels for."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.nn.recording import is_tracing, packed_product

REORDER: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
MULTIPLY: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's kernels, which some builds of torch lack."""

if MULTIPLY is not None:  # what its calls end in: a microsecond less of sixteen
    MULTIPLY = getattr(MULTIPLY, "_op", MULTIPLY)

REORDER_HALF: Any = getattr(torch.ops.quantized, "linear_prepack_fp16", None)
MULTIPLY_HALF: Any = getattr(torch.ops.quantized, "linear_dynamic_fp16", None)
"""FBGEMM's kernels, which read weights of float16 and multiply in float32."""

if MULTIPLY_HALF is not None:  # 40 us instead of 57
    MULTIPLY_HALF = getattr(MULTIPLY_HALF, "_op", MULTIPLY_HALF)

PROBES = {
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}
"""What tells whether this processor has the kernels of a precision; it has those of float32."""


def multiply(
    x: Float[Tensor, "*batch inputs"], packed: Tensor, bias: Tensor | None, after: str = "none"
) -> Float[Tensor, "*batch outputs"]:
    """A packed product, and what is to be done after it."""
    if is_tracing():
        return packed_product(x, packed, bias, after)
    return MULTIPLY(x, packed, bias, after, [], "none")


def can_multiply(weight: Tensor) -> bool:
    """Whether torch has the kernels for a weight."""
    return weight.device.type == "cpu" and has_kernels(weight.dtype)


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether this build of torch has packed products of a precision, for this processor."""
    if REORDER is None or dtype == torch.float32:
        return REORDER is not None
    probe = getattr(torch.ops.mkldnn, PROBES.get(dtype, ""), None)
    return probe is not None and probe()


def has_half_kernels() -> bool:
    """Whether this build of torch, as it is set, has FBGEMM's products of float16 weights."""
    return REORDER_HALF is not None and torch.backends.quantized.engine in ("x86", "fbgemm")
