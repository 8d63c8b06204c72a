"""A causal transformer over a sequence of vectors, and the kinds of layers it may have."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tarflow.nn.attention import WHOLE, CausalSelfAttention, KVCache, Step, Window
from tarflow.registry import Part

Condition = Float[Tensor, "batch model_dim"] | None
"""What a network adds at every position, if anything."""


class Layer(Part, ABC):
    """Describes a kind of layer: a frozen dataclass that makes one.

    What it makes is a module with `forward(x, window)`, which maps vectors to vectors of the same
    size, each a function of those up to its position. Keys and values of earlier positions are
    in the window: `window.attend(index, q, k, v)` writes those of the layer and attends.
    """

    @abstractmethod
    def __call__(
        self, model_dim: int, head_dim: int, expansion: int, dropout: float, index: int
    ) -> nn.Module:
        """Make a layer of a `CausalTransformer`, whose arguments these are.

        The index, from 0, is the layer's place in the transformer and in a cache.
        """


@dataclass(frozen=True)
class PreNorm(Layer):
    """Attention and an MLP, each after a LayerNorm and added to its input (arXiv 2002.04745)."""

    def __call__(
        self, model_dim: int, head_dim: int, expansion: int, dropout: float, index: int
    ) -> nn.Module:
        return Block(model_dim, head_dim, expansion, dropout, index)


class MLP(nn.Sequential):
    """Two linear layers around a GELU, the hidden one `expansion` times as wide."""

    def __init__(self, model_dim: int, expansion: int, dropout: float = 0.0):
        super().__init__(
            nn.Linear(model_dim, expansion * model_dim),
            nn.GELU(),
            nn.Linear(expansion * model_dim, model_dim),
            nn.Dropout(dropout),
        )


class Block(nn.Module):
    """One layer: attention, then an MLP, each after a LayerNorm and added to its input."""

    add = staticmethod(torch.add)
    """Adds to what was computed last, which packing does in place."""

    def __init__(
        self, model_dim: int, head_dim: int, expansion: int, dropout: float = 0.0, layer: int = 0
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(model_dim)
        self.attention = CausalSelfAttention(model_dim, head_dim, dropout, layer)
        self.mlp_norm = nn.LayerNorm(model_dim)
        self.mlp = MLP(model_dim, expansion, dropout)

    def forward(
        self, x: Float[Tensor, "batch *window model_dim"], window: Window | Step = WHOLE
    ) -> Float[Tensor, "batch *window model_dim"]:
        """Apply the layer."""
        x = self.add(self.attention(self.attention_norm(x), window), x)
        return self.add(self.mlp(self.mlp_norm(x)), x)


class CausalTransformer(nn.Module):
    """Maps vectors to vectors, each output a function of the inputs up to its position.

    The output layer starts at zero, so that a fresh network returns zeros.

    Args:
        in_features: Size of an input vector.
        out_features: Size of an output vector.
        length: Number of positions that have a learned embedding.
        model_dim: Width of the model.
        num_layers: Number of layers.
        head_dim: Width of one attention head; it divides `model_dim`.
        expansion: Width of the MLP's hidden layer, in units of `model_dim`.
        dropout: Probability of dropping an attention weight or an MLP output in training.
        layer: The kind of layer.

    Attributes:
        blocks: The layers.
        num_recomputed: Number of layers, from the first, that are computed again for gradients
            instead of keeping what is within: less memory, a third more time.
    """

    add = staticmethod(torch.add)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        length: int,
        model_dim: int,
        num_layers: int,
        head_dim: int = 64,
        expansion: int = 4,
        dropout: float = 0.0,
        layer: Layer = PreNorm(),
    ):
        super().__init__()
        self.in_features = in_features
        self.length = length
        self.model_dim = model_dim
        self.num_recomputed = 0
        self.proj_in = nn.Linear(in_features, model_dim)
        self.position_embedding = nn.Parameter(0.01 * torch.randn(length, model_dim))
        self.blocks = nn.ModuleList(
            layer(model_dim, head_dim, expansion, dropout, index) for index in range(num_layers)
        )
        self.proj_out = nn.Linear(model_dim, out_features)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, outside of autocast."""
        return self.position_embedding.dtype

    def new_cache(self, rows: int) -> KVCache:
        """An empty cache of keys and values for so many sequences."""
        return KVCache(len(self.blocks), self.length)

    def forward(
        self,
        x: Float[Tensor, "batch *window in_features"],
        condition: Condition = None,
        window: Window | Step = WHOLE,
    ) -> Float[Tensor, "batch *window out_features"]:
        """Transform vectors at the positions of a window, in the dtype of the weights.

        The condition is added at every position. Vectors of a single position may come without
        its dimension, if the layers allow that.
        """
        h = self.proj_in(x.to(self.dtype))
        h = self.add(h, window.rows(self.position_embedding, x.shape[1] if x.ndim == 3 else 1))
        if condition is not None:
            added = condition.to(self.dtype)
            h = self.add(h, added[:, None] if x.ndim == 3 else added)
        num_recomputed = self.num_recomputed if torch.is_grad_enabled() else 0
        for index, block in enumerate(self.blocks):
            if index < num_recomputed:
                h = cast(Tensor, checkpoint(block, h, window, use_reentrant=False))
            else:
                h = block(h, window)
        return self.proj_out(h)
