"""Causal self-attention, with an explicit key/value cache for decoding."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from tarflow.errors import ConfigurationError


class KVCache:
    """Keys and values of every layer, allocated once and written at explicit positions.

    Rewriting a window of positions needs no rewind: new keys and values overwrite the old ones.
    Storage takes its batch size, dtype and device from the first keys that each layer writes, so a
    cache follows autocast and the model's device by itself. Writes are in place, hence not
    differentiable: see `DifferentiableKVCache`.

    Args:
        num_layers: Number of attention layers that share the cache.
        length: Number of positions to hold.
    """

    def __init__(self, num_layers: int, length: int):
        self.length = length
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers

    def update(
        self,
        layer: int,
        start: int,
        keys: Float[Tensor, "batch heads window head_dim"],
        values: Float[Tensor, "batch heads window head_dim"],
    ) -> tuple[
        Float[Tensor, "batch heads end head_dim"], Float[Tensor, "batch heads end head_dim"]
    ]:
        """Write a window at positions `start ...` and return everything up to its end."""
        return (
            self._write(self.keys, layer, start, keys),
            self._write(self.values, layer, start, values),
        )

    def _write(self, store: list[Tensor | None], layer: int, start: int, new: Tensor) -> Tensor:
        """Overwrite positions of one layer in place; the result is a view, not a copy."""
        batch, heads, window, head_dim = new.shape
        kept = store[layer]
        if kept is None:
            kept = store[layer] = new.new_empty(batch, heads, self.length, head_dim)
        kept[:, :, start : start + window] = new
        return kept[:, :, : start + window]


class DifferentiableKVCache(KVCache):
    """A cache that joins instead of overwriting, so that gradients flow through decoding.

    It costs memory quadratic in the length: for gradients only.
    """

    def _write(self, store: list[Tensor | None], layer: int, start: int, new: Tensor) -> Tensor:
        kept = store[layer]
        joined = new if kept is None else torch.cat([kept[:, :, :start], new], dim=2)
        store[layer] = joined
        return joined


@dataclass(frozen=True)
class Window:
    """What a pass through the layers attends to besides its own inputs, and how sharply.

    Attributes:
        start: Position of the first input.
        cache: Keys and values of the positions before; written at those of the inputs.
        temperature: Divisor of the attention logits, one per example.
    """

    start: int = 0
    cache: KVCache | None = None
    temperature: Float[Tensor, " batch"] | None = None


WHOLE = Window()
"""A pass over a whole sequence."""


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which every position sees itself and what came before.

    Args:
        model_dim: Width of the model; a multiple of `head_dim`.
        head_dim: Width of one head.
        dropout: Probability of dropping an attention weight in training.
        layer: Index of this layer in a cache.
    """

    def __init__(self, model_dim: int, head_dim: int, dropout: float = 0.0, layer: int = 0):
        super().__init__()
        if model_dim % head_dim:
            raise ConfigurationError(
                f"model_dim {model_dim} is not a multiple of head_dim {head_dim}"
            )
        self.head_dim = head_dim
        self.dropout = dropout
        self.layer = layer
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.proj = nn.Linear(model_dim, model_dim)

    def forward(
        self, x: Float[Tensor, "batch window model_dim"], window: Window = WHOLE
    ) -> Float[Tensor, "batch window model_dim"]:
        """Attend to the inputs and to what the window's cache holds before them."""
        pattern = "batch window (three heads head_dim) -> three batch heads window head_dim"
        q, k, v = rearrange(self.qkv(x), pattern, three=3, head_dim=self.head_dim)
        if window.temperature is not None:
            q = q / window.temperature.to(q.dtype)[:, None, None, None]
        if window.cache is not None:
            k, v = window.cache.update(self.layer, window.start, k, v)
        attended = attend(q, k, v, self.dropout if self.training else 0.0)
        return self.proj(rearrange(attended, "batch heads window dim -> batch window (heads dim)"))


def attend(
    q: Float[Tensor, "batch heads window head_dim"],
    k: Float[Tensor, "batch heads end head_dim"],
    v: Float[Tensor, "batch heads end head_dim"],
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads window head_dim"]:
    """Causal attention of the last `window` of `end` positions, by the kernel for the shape.

    An explicit mask disables torch's flash kernels, and `is_causal` aligns top-left, which is
    right only when queries and keys start at the same position.
    """
    window, end = q.shape[-2], k.shape[-2]
    if window == 1:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    if window == end:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    mask = causal_lower_right(window, end)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
