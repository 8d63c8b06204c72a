"""Kinds of layers of a transformer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.arguments import check_instance
from tarflow.nn.attention import WHOLE, CausalSelfAttention, Step, Window
from tarflow.nn.feed_forward import FeedForward, GeluMLP
from tarflow.nn.gates import Gate
from tarflow.nn.norms import LayerNormalization, Norm
from tarflow.registry import Part


class Layer(Part, ABC):
    """Describes a kind of layer: a frozen dataclass that makes one.

    What it makes is a module with `forward(x, window)`, which maps vectors to vectors of the same
    size, each a function of those up to its position. Keys and values of earlier positions are
    in the window: `window.attend(index, q, k, v)` writes those of the layer and attends.
    """

    modulations: ClassVar[tuple[float, ...]] = ()
    """Where a layer reads vectors off the condition, the value that each has in a new network.

    They are affine maps of the condition, of the model's width, one after another in
    `window.modulation`.
    """

    @abstractmethod
    def __call__(
        self, model_dim: int, head_dim: int, expansion: int, dropout: float, index: int
    ) -> nn.Module:
        """Make a layer of a `CausalTransformer`, whose arguments these are.

        The index, from 0, is the layer's place in the transformer and in a cache. A kind that can
        have other widths than the model's also takes `num_heads` and `hidden_dim`, which are
        passed where they are given.
        """


@dataclass(frozen=True)
class PreNorm(Layer):
    """Attention and an MLP, each after a norm and added to its input (arXiv 2002.04745).

    Attributes:
        norm: The kind of norm.
        mlp: The kind of MLP.
        query_key_norm: The kind of norm of each head's queries and keys, if any: their products
            cannot grow without bound (arXiv 2302.05442).
        gate: The kind of gate on what is attended to, if any.
    """

    norm: Norm = LayerNormalization()
    mlp: FeedForward = GeluMLP()
    query_key_norm: Norm | None = None
    gate: Gate | None = None

    def __post_init__(self):
        check_instance("norm", self.norm, Norm, "pass one, such as RootMeanSquare()")
        check_instance("mlp", self.mlp, FeedForward, "pass one, such as SwiGLU()")
        for name, kind in (("query_key_norm", Norm), ("gate", Gate)):
            value = getattr(self, name)
            if value is not None:
                check_instance(name, value, kind, f"pass a {kind.__name__}, or None")

    def __call__(
        self,
        model_dim: int,
        head_dim: int,
        expansion: int,
        dropout: float,
        index: int,
        num_heads: int | None = None,
        hidden_dim: int | None = None,
    ) -> "Block":
        parts = (self.query_key_norm, self.gate)
        attention = (model_dim, head_dim, dropout, index, *parts, num_heads)
        if hidden_dim is None:
            make_mlp = partial(self.mlp, model_dim, expansion, dropout)
        else:
            make_mlp = partial(self.mlp.of_width, model_dim, hidden_dim, dropout)
        return Block(
            self.norm(model_dim),
            CausalSelfAttention(*attention),
            self.norm(model_dim),
            make_mlp(),
        )


@dataclass(frozen=True)
class AdaptiveNorm(PreNorm):
    r"""As `PreNorm`, with scales, shifts and gates that the condition gives (arXiv 2212.09748).

    For attention and MLP f alike, $x + g \odot f(s \odot \mathrm{norm}(x) + b)$, where the layer's
    s, b and g are affine maps of the SiLU of the condition: at first 1, 0 and 0, so that a new
    layer is the identity.
    """

    modulations: ClassVar[tuple[float, ...]] = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)

    def __call__(
        self,
        model_dim: int,
        head_dim: int,
        expansion: int,
        dropout: float,
        index: int,
        num_heads: int | None = None,
        hidden_dim: int | None = None,
    ) -> "AdaptiveBlock":
        widths = (num_heads, hidden_dim)
        block = super().__call__(model_dim, head_dim, expansion, dropout, index, *widths)
        parts = (block.attention_norm, block.attention, block.mlp_norm, block.mlp)
        return AdaptiveBlock(*parts)


class Block(nn.Module):
    """One layer: attention, then an MLP, each after a norm and added to its input."""

    add = staticmethod(torch.add)
    """Adds to what was computed last, which packing does in place."""

    def __init__(
        self,
        attention_norm: nn.Module,
        attention: CausalSelfAttention,
        mlp_norm: nn.Module,
        mlp: nn.Module,
    ):
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(
        self, x: Float[Tensor, "batch *window model_dim"], window: Window | Step = WHOLE
    ) -> Float[Tensor, "batch *window model_dim"]:
        """Apply the layer."""
        x = self.add(self.attention(self.attention_norm(x), window), x)
        return self.add(self.mlp(self.mlp_norm(x)), x)


class AdaptiveBlock(Block):
    """A layer whose norms are followed by scales and shifts of the window, and sums by gates."""

    def forward(
        self, x: Float[Tensor, "batch *window model_dim"], window: Window | Step = WHOLE
    ) -> Float[Tensor, "batch *window model_dim"]:
        """Apply the layer."""
        # The network gives its layers what they ask for.
        assert window.modulation is not None
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = window.modulation.chunk(6, dim=-1)
        h = torch.addcmul(shift, self.attention_norm(x), scale)
        x = torch.addcmul(x, gate, self.attention(h, window))
        h = torch.addcmul(mlp_shift, self.mlp_norm(x), mlp_scale)
        return torch.addcmul(x, mlp_gate, self.mlp(h))
