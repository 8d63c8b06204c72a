"""Transformers over a sequence of vectors, causal and bidirectional."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tarflow.nn.attention import WHOLE, CausalSelfAttention, KVCache, Window
from tarflow.nn.kernels import FullAttention
from tarflow.nn.layers import Layer, PreNorm
from tarflow.nn.norms import Norm
from tarflow.nn.positions import Coordinates, LearnedPositions, Positions, in_a_row

Condition = Float[Tensor, "#batch numbers"] | Float[Tensor, "batch length numbers"] | None
"""What a network adds at every position, if anything, and after it what its layers read.

It is the same at all positions of a sequence, or each has its own.
"""

Prefix = Float[Tensor, "batch prefix model_dim"]
"""Vectors that stand before the inputs of a network, which do not become outputs."""


class Transformer(nn.Module):
    """Maps vectors to vectors; a fresh network returns zeros, for its output layer starts there.

    Args:
        in_features: Size of an input vector.
        out_features: Size of an output vector.
        length: Number of positions.
        model_dim: Width of the model.
        num_layers: Number of layers.
        head_dim: Width of one attention head; it divides `model_dim`.
        expansion: Width of the MLP's hidden layer, in units of `model_dim`.
        dropout: Probability of dropping an attention weight or an MLP output in training.
        layer: The kind of layer.
        positions: How it knows where an input stands.
        coordinates: Where in a grid each position lies; by default all are in one row.
        output_norm: The kind of norm before the output layer, if any.
        num_heads: Number of heads of each layer; by default as many as fill the model's width.
        hidden_dims: Width of the MLP's hidden layer in each layer, in place of `expansion`.

    Attributes:
        blocks: The layers.
        num_recomputed: Number of layers, from the first, that are computed again for gradients
            instead of keeping what is within: less memory, a third more time.
    """

    add = staticmethod(torch.add)
    position_embedding: nn.Parameter | None

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
        positions: Positions = LearnedPositions(),
        coordinates: Coordinates | None = None,
        output_norm: Norm | None = None,
        num_heads: Sequence[int] | None = None,
        hidden_dims: Sequence[int] | None = None,
    ):
        super().__init__()
        self.in_features = in_features
        self.length = length
        self.model_dim = model_dim
        self.num_recomputed = 0
        self.proj_in = nn.Linear(in_features, model_dim)
        self.position_embedding = positions.table(length, model_dim)
        if self.position_embedding is None:  # which else tells precision and device
            self.register_buffer("empty", torch.empty(0), persistent=False)
        placed = in_a_row(length) if coordinates is None else coordinates
        self.rotation = positions.rotation(placed, head_dim)
        sizes, self.blocks = (model_dim, head_dim, expansion, dropout), nn.ModuleList()
        given = {"num_heads": num_heads, "hidden_dim": hidden_dims}
        for index in range(num_layers):
            widths = {name: each[index] for name, each in given.items() if each is not None}
            self.blocks.append(layer(*sizes, index, **widths))
        starts = layer.modulations
        self.modulation = Modulation(model_dim, num_layers, starts) if starts else None
        self.output_norm = None if output_norm is None else output_norm(model_dim)
        self.proj_out = nn.Linear(model_dim, out_features)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def like(self) -> Tensor:
        """A tensor of its precision, on its device."""
        table = self.position_embedding
        return cast(Tensor, self.empty) if table is None else table

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, outside of autocast."""
        table = self.position_embedding  # not by `like`: a step asks for it
        return (cast(Tensor, self.empty) if table is None else table).dtype

    def conditioned(self, vector: Float[Tensor, "batch *length model_dim"] | None) -> Condition:
        """What `forward` takes as its condition: made once for all steps of decoding.

        Layers that read nothing of it leave it as it is.
        """
        if self.modulation is None:
            return vector
        if vector is None:
            vector = self.like.new_zeros(1, self.model_dim)
        return self.modulation(vector.to(self.dtype))

    def forward(
        self,
        x: Float[Tensor, "batch *window in_features"],
        condition: Condition = None,
        window: Window = WHOLE,
        kept: list[Tensor] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch *window out_features"]:
        """Transform vectors at the positions of a window, in the dtype of the weights.

        The condition is one from `conditioned`. Vectors of a single position may come without its
        dimension, if the layers allow that. What each layer hands on is appended to `kept`, where
        that is given. A prefix takes the window's first positions, and the vectors those behind.
        """
        dtype, table = self.dtype, self.position_embedding
        h, num_before = self.proj_in(x.to(dtype)), 0
        if prefix is not None:
            h, num_before = torch.cat([prefix.to(dtype), h], dim=1), prefix.shape[1]
        count = h.shape[1] if x.ndim == 3 else 1
        # Left alone, autocast would let all layers add to a sum in half precision.
        if table is None:
            h = h.to(dtype)
        else:
            rows = window.rows(table, count)
            h = self.add(h, rows[:, 0] if rows.ndim > x.ndim else rows)
        if self.rotation is not None:
            angles = window.rows(self.rotation.table, count)
            angles = angles[:, None] if angles.ndim == 3 else angles  # the same for all heads
            cos, sin = angles.chunk(2, dim=-1)
            window = replace(window, rotation=(cos, sin))
        windows: Iterable[Window] = repeat(window)
        if condition is not None:
            rows = condition.to(dtype)
            if rows.ndim == 3:
                rows = window.own(rows, count)
                rows = rows if x.ndim == 3 else rows[:, 0]
            elif x.ndim == 3:
                rows = rows[:, None]
            if self.modulation is not None:
                rows, *read = rows.split(self.modulation.sizes, dim=-1)
                windows = [replace(window, modulation=each) for each in read]
            h = self.add(h, rows)
        num_recomputed = self.num_recomputed if torch.is_grad_enabled() else 0
        for index, block, own in zip(range(len(self.blocks)), self.blocks, windows, strict=False):
            if index < num_recomputed:
                h = cast(Tensor, checkpoint(block, h, own, use_reentrant=False))
            else:
                h = block(h, own)
            if kept is not None:
                kept.append(h)
        h = h[:, num_before:] if num_before else h
        return self.proj_out(h if self.output_norm is None else self.output_norm(h))


class CausalTransformer(Transformer):
    """A transformer each of whose outputs is a function of the inputs up to its position."""

    def new_cache(self, rows: int) -> KVCache:
        """An empty cache of keys and values for so many sequences."""
        return KVCache(len(self.blocks), self.length)


class BidirectionalTransformer(Transformer):
    """A transformer each of whose outputs is a function of all inputs."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        for attention in self.modules():
            if isinstance(attention, CausalSelfAttention):
                attention.kernel = FullAttention()


class Modulation(nn.Module):
    """Appends to a condition what layers read of it: affine maps of its SiLU.

    Args:
        model_dim: Width of the condition, and of each vector that is read.
        num_layers: Number of layers.
        starts: The values of a layer's vectors at first, whatever the condition.
    """

    def __init__(self, model_dim: int, num_layers: int, starts: tuple[float, ...]):
        super().__init__()
        self.sizes = [model_dim, *[len(starts) * model_dim] * num_layers]
        self.linear = nn.Linear(model_dim, sum(self.sizes[1:]))
        nn.init.zeros_(self.linear.weight)
        vectors = torch.tensor(starts).repeat(num_layers).repeat_interleave(model_dim)
        with torch.no_grad():
            self.linear.bias.copy_(vectors)

    def forward(
        self, vector: Float[Tensor, "batch *length model_dim"]
    ) -> Float[Tensor, "batch *length numbers"]:
        """The condition, and the vectors of every layer."""
        return torch.cat([vector, self.linear(F.silu(vector))], dim=-1)
