"""Linear layers in the layout of the CPU's fastest kernels, for decoding."""

import copy
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.nn.transformer import CausalTransformer


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in the layout of oneDNN's kernels; for decoding on CPUs.

    A step multiplies few rows by every weight. Packed, that takes half the time of a plain linear
    layer with 2 to 64 rows of width 256, and the same with many (docs/experiments.md).

    Args:
        linear: The layer to pack, in float32 on the CPU.
        activation: What follows: "none", or "gelu", computed on the way.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        operators: Any = torch.ops.mkldnn
        self.weight = operators._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = activation
        self.multiply = operators._linear_pointwise

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Apply the layer."""
        return self.multiply(x, self.weight, self.bias, self.activation, [], "none")


def can_pack(network: CausalTransformer) -> bool:
    """Whether this build of torch has the kernels for this network."""
    weight = network.position_embedding
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def pack(network: CausalTransformer) -> CausalTransformer:
    """A copy with packed linear layers; whatever else it holds is shared."""
    return _packed(network)  # pyright: ignore[reportReturnType]


def _packed(module: nn.Module) -> nn.Module:
    """Copy a tree of modules around its packed linear layers."""
    if isinstance(module, nn.Linear):
        return PackedLinear(module)
    duplicate = copy.copy(module)
    duplicate._modules = {name: _packed(child) for name, child in module.named_children()}
    if isinstance(duplicate, nn.Sequential):
        _fuse_gelu(duplicate)
    return duplicate


def _fuse_gelu(layers: nn.Sequential) -> None:
    """Let a packed linear layer compute the GELU that follows it."""
    for index, (first, second) in enumerate(pairwise(layers)):
        if isinstance(first, PackedLinear) and isinstance(second, nn.GELU):
            first.activation = "gelu"
            layers[index + 1] = nn.Identity()
