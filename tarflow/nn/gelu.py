"""A GELU for layers that are compiled to train."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class UncompiledGELU(nn.GELU):
    """The exact GELU, which compiled training leaves to oneDNN's kernel on CPUs.

    Inductor's own takes three times as long, 2.1 ms against 0.6 for 2,016 x 1,024 numbers in
    bfloat16 within a step, and the step 3 % more (docs/experiments.md).
    """

    def forward(self, input: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        if torch.compiler.is_compiling() and torch.is_grad_enabled() and input.is_cpu:
            return uncompiled_gelu(input)
        return F.gelu(input)


@torch.library.custom_op("tarflow::gelu", mutates_args=())
def uncompiled_gelu(x: Tensor) -> Tensor:
    """The GELU as one call that compilers leave as it is."""
    return F.gelu(x)


@torch.library.custom_op("tarflow::gelu_backward", mutates_args=())
def _uncompiled_gelu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of an input of the GELU, from that of its output."""
    return torch.ops.aten.gelu_backward(gradient, x)


def _keep_input(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
    """Save what the gradient needs."""
    ctx.save_for_backward(*inputs)


def _backward(ctx, gradient: Tensor) -> Tensor:
    """Differentiate."""
    return _uncompiled_gelu_backward(gradient, *ctx.saved_tensors)


uncompiled_gelu.register_fake(torch.empty_like)
uncompiled_gelu.register_autograd(_backward, setup_context=_keep_input)
_uncompiled_gelu_backward.register_fake(lambda gradient, x: torch.empty_like(x))
