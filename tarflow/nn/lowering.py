"""Linear layers of a lower precision than that of what they take and give."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class LoweredLinear(nn.Linear):
    """A linear layer between tensors of one precision, whose product is one of a lower.

    The inputs are rounded, and so are weights, once; sums are of float32, and rounded again. To
    tell torch to do so (`torch.backends.mkldnn.matmul.fp32_precision`) would change the products
    of all threads.
    """

    lowered: Tensor
    lowered_bias: Tensor | None

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer."""
        product = F.linear(x.to(self.lowered.dtype), self.lowered, self.lowered_bias)
        return product.to(self.weight.dtype)


class RoundedLinear(nn.Linear):
    """A linear layer whose weight is one of float16: half as much to read; nothing else is."""


def lower_products(blocks: nn.Module, dtype: torch.dtype) -> None:
    """Let the linear layers within a module, in place, multiply in a precision.

    What is not known stays as it is, as in `PackedTransformer`.
    """
    for module in filter(is_plain_linear, blocks.modules()):
        weight, bias = cast(Tensor, module.weight), cast(Tensor | None, module.bias)
        lowered = None if bias is None else bias.detach().to(dtype)
        module.__class__ = LoweredLinear
        module.register_buffer("lowered", weight.detach().to(dtype), persistent=False)
        module.register_buffer("lowered_bias", lowered, persistent=False)


def round_weights(blocks: nn.Module) -> None:
    """Round the weights of the linear layers within a module, in place, to float16."""
    largest = torch.finfo(torch.float16).max
    for module in filter(is_plain_linear, blocks.modules()):
        weight = cast(Tensor, module.weight).detach()
        rounded = weight.clamp(-largest, largest).half().to(weight.dtype)
        module.__class__ = RoundedLinear
        module.weight = nn.Parameter(rounded, requires_grad=False)


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer that does, with a weight, what its type does."""
    if type(module) is not nn.Linear or not is_plain(module):
        return False
    return type(cast(object, module.weight)) is nn.Parameter


def is_plain(module: nn.Module) -> bool:
    """Whether a module does what its type does: it has no hooks, and no `forward` of its own."""
    return "forward" not in vars(module) and not any(getattr(module, hooks) for hooks in HOOKS)
