"""A transformer in the layout of the CPU's fastest kernels, for decoding."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.nn.attention import WHOLE, KVCache, Window
from tarflow.nn.transformer import Block, CausalTransformer

FEW_ROWS = 16
"""Rows up to which the product computes the GELU on the way; with more, it is faster apart."""


class PackedTransformer:
    """What `CausalTransformer` computes, with as little as possible between the products.

    A step multiplies few rows by every weight, so that reading the weights takes most of its time,
    and calls of modules most of the rest. The weights lie in the layout of oneDNN's kernels,
    and all is a function of rows (docs/experiments.md has the profile).

    Args:
        network: The transformer to pack, in float32 on the CPU.
        memory: Where caches lie; transformers that decode in turn share it.
    """

    dtype = torch.float32

    def __init__(self, network: CausalTransformer, memory: "CacheMemory | None" = None):
        self.new_cache = partial((memory or CacheMemory()).new_cache, network)
        self.position_embedding = network.position_embedding.detach()
        self.proj_in = PackedLinear(network.proj_in)
        self.blocks = [PackedBlock(cast(Block, block)) for block in network.blocks]
        self.proj_out = PackedLinear(network.proj_out)

    def __call__(
        self,
        x: Float[Tensor, "batch window in_features"],
        condition: Float[Tensor, "batch model_dim"] | None = None,
        window: Window = WHOLE,
    ) -> Float[Tensor, "batch window out_features"]:
        """Transform the vectors of a window."""
        batch, count, _ = x.shape
        h = self.proj_in(x.to(self.dtype).flatten(0, 1))
        by_position = h.view(batch, count, h.shape[1])
        by_position += window.rows(self.position_embedding, count)
        if condition is not None:
            by_position += condition[:, None]
        for block in self.blocks:
            h = block(h, (batch, count), window)
        return self.proj_out(h).unflatten(0, (batch, count))


class CacheMemory:
    """Keeps the memory of the last cache for the next: one at a time is in use.

    Writing to fresh memory for the first time is 7 % of decoding 64 examples.
    """

    def __init__(self):
        self.kind: tuple | None = None
        self.cache = KVCache(0, 0)

    def new_cache(self, network: CausalTransformer, rows: int) -> KVCache:
        """A cache of so many sequences, in which nothing counts as written."""
        # Tensors made in inference mode cannot be written to outside of it.
        inference = torch.is_inference_mode_enabled()
        sizes = len(network.blocks), network.length, network.model_dim, network.head_dim
        if self.kind != (rows, inference, *sizes):
            self.kind, self.cache = (rows, inference, *sizes), network.new_cache(rows)
        return self.cache


class PackedBlock:
    """One layer of a packed transformer."""

    def __init__(self, block: Block):
        self.attention_norm = norm(block.attention_norm)
        self.layer = block.attention.layer
        self.head_dim = block.attention.head_dim
        self.num_heads = block.attention.proj.in_features // self.head_dim
        self.qkv = PackedLinear(block.attention.qkv)
        self.proj = PackedLinear(block.attention.proj)
        self.mlp_norm = norm(block.mlp_norm)
        self.up = PackedLinear(cast(nn.Linear, block.mlp[0]))
        self.down = PackedLinear(cast(nn.Linear, block.mlp[2]))

    def __call__(
        self, h: Float[Tensor, "rows model_dim"], grid: tuple[int, int], window: Window
    ) -> Float[Tensor, "rows model_dim"]:
        """Apply the layer; rows are a grid of examples and positions."""
        shape = (*grid, 3, self.num_heads, self.head_dim)
        q, k, v = self.qkv(self.attention_norm(h)).view(shape).permute(2, 0, 3, 1, 4).unbind()
        if window.temperature is not None:
            q = q / window.temperature.to(q.dtype)[:, None, None, None]
        attended = window.attend(self.layer, q, k, v).transpose(1, 2)
        h = self.proj(attended.reshape(h.shape)).add_(h)
        return self.down(self.up.with_gelu(self.mlp_norm(h))).add_(h)


class PackedLinear:
    """A linear layer whose weight lies in the layout of oneDNN's kernels.

    With 2 to 64 rows of width 256 it takes half the time of a plain one, with many the same.
    """

    def __init__(self, linear: nn.Linear):
        operators: Any = torch.ops.mkldnn
        self.multiply = operators._linear_pointwise.default
        self.weight = operators._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def __call__(self, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Apply the layer."""
        return self.multiply(x, self.weight, self.bias, "none", [], "none")

    def with_gelu(self, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Apply the layer and then GELU."""
        if len(x) <= FEW_ROWS:
            return self.multiply(x, self.weight, self.bias, "gelu", [], "none")
        return F.gelu(self(x))


def norm(layer: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """A LayerNorm as a function."""
    shape, weight, bias = layer.normalized_shape, layer.weight.detach(), layer.bias.detach()
    return lambda x: torch.layer_norm(x, shape, weight, bias, layer.eps)


def can_pack(network: CausalTransformer) -> bool:
    """Whether this build of torch has the kernels for this network, and it drops nothing."""
    weight = network.position_embedding
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    drops = network.training and network.dropout > 0
    return on_cpu and not drops and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
