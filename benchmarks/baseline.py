"""Guided sampling as published research code does it: what the library is measured against.

Written from METHOD.md's equations for this comparison, with what is common in such code: caches
that are lists of tensors, joined at every step; one pass for the conditional and another for the
null prediction; autocast around everything; a boolean mask for attention.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from tarflow import NULL_CLASS, AutoregressiveTransform, ExpScale, Patchify, Reverse, TarFlow
from tarflow.nn.layers import Block
from tarflow.nn.transformer import CausalTransformer


@dataclass
class JoinedCache:
    """Keys and values of one layer, one tensor for each position."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append a position and join all of them."""
        self.keys.append(key)
        self.values.append(value)
        return torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)


class Baseline:
    """Inverts a flow step by step.

    Args:
        flow: The flow, whose weights are shared; its scale is the exponential one.
        dtype: What autocast computes in; nothing is cast in float32 and above.
    """

    def __init__(self, flow: TarFlow, dtype: torch.dtype = torch.float32):
        self.transforms = list(flow.transform)
        self.device = flow.base.anchor.device
        self.dtype = dtype
        length = flow.base.shape[0]
        self.mask = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        decoded = [t for t in self.transforms if isinstance(t, AutoregressiveTransform)]
        assert all(isinstance(transform.scale, ExpScale) for transform in decoded)

    @torch.no_grad()
    def __call__(self, z: Tensor, label: Tensor | None, weight: float = 0.0) -> Tensor:
        """Map noise to images.

        Args:
            z: Noise.
            label: Classes; None for a flow without.
            weight: Of linear guidance, the same at every position; 0 is off.
        """
        enabled = self.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, self.dtype if enabled else None, enabled):
            for transform in reversed(self.transforms):
                if isinstance(transform, AutoregressiveTransform):
                    z = self._decode(transform, z, label, weight)
                elif isinstance(transform, Reverse):
                    z = z.flip(1)
                elif isinstance(transform, Patchify):
                    z = _join_patches(z, transform)
        return z

    def _decode(
        self, transform: AutoregressiveTransform, z: Tensor, label: Tensor | None, weight: float
    ) -> Tensor:
        """Solve one transform position by position."""
        network, x = transform.network, z.clone()
        own, null = _embed(transform, label)
        own_caches = [JoinedCache() for _ in network.blocks]
        null_caches = [JoinedCache() for _ in network.blocks]
        for i in range(z.shape[1] - 1):
            alpha, mu = self._predict(network, x[:, i : i + 1], own, own_caches, i)
            if weight > 0:
                null_alpha, null_mu = self._predict(network, x[:, i : i + 1], null, null_caches, i)
                alpha = alpha + weight * (alpha - null_alpha)
                mu = mu + weight * (mu - null_mu)
            x[:, i + 1] = z[:, i + 1] * alpha.to(z.dtype).exp() + mu.to(z.dtype)
        return x

    def _predict(
        self,
        network: CausalTransformer,
        x: Tensor,
        condition: Tensor | None,
        caches: list[JoinedCache],
        position: int,
    ) -> tuple[Tensor, Tensor]:
        """The log-scale and the shift of the next position."""
        assert network.position_embedding is not None
        h = network.proj_in(x) + network.position_embedding[position]
        if condition is not None:
            h = h + condition[:, None]
        for block, cache in zip(network.blocks, caches, strict=True):
            h = self._layer(cast(Block, block), h, cache, position)
        alpha, mu = network.proj_out(h).chunk(2, dim=-1)
        return alpha[:, 0], mu[:, 0]

    def _layer(self, block: Block, h: Tensor, cache: JoinedCache, position: int) -> Tensor:
        """One layer for one position."""
        h = h + self._attend(block, h, cache, position)
        return h + block.mlp(block.mlp_norm(h))

    def _attend(self, block: Block, h: Tensor, cache: JoinedCache, position: int) -> Tensor:
        """Attention of one position to all before it."""
        attention = block.attention
        q, k, v = attention.qkv(block.attention_norm(h)).chunk(3, dim=-1)
        pattern = "batch one (heads dim) -> batch heads one dim"
        q, k, v = (rearrange(part, pattern, dim=attention.head_dim) for part in (q, k, v))
        k, v = cache.add(k, v)
        mask = self.mask[position : position + 1, : position + 1]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return attention.proj(rearrange(attended, "batch heads one dim -> batch one (heads dim)"))


def _embed(
    transform: AutoregressiveTransform, label: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What the network adds for the classes, and for no class."""
    embedding = getattr(transform, "label_embedding", None)
    if embedding is None or label is None:
        return None, None
    return embedding(label), embedding(torch.full_like(label, NULL_CLASS))


def _join_patches(z: Tensor, patchify: Patchify) -> Tensor:
    """Put the patches of images together."""
    rows, p = patchify.grid[0], patchify.patch_size
    pattern = "batch (rows columns) (channels p q) -> batch channels (rows p) (columns q)"
    return rearrange(z, pattern, rows=rows, p=p, q=p)
