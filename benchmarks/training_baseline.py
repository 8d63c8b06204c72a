"""A training step as published research code writes it: what the package's is measured against.

Written from METHOD.md's equations for this comparison, with what is common in such code:

* attention by torch's fused kernel, given an explicit boolean mask of T x T, which rules out the
  flash kernel and `is_causal`; queries, keys and values cut out of one product and rearranged;
* autocast around the forward pass, which casts every weight apart; the flow's state in float32;
* no compilation, and no recomputation of activations;
* `torch.optim.AdamW` as it is made by default; no clipping, no average of the weights;
* images turned into normalized float32 one by one on the host, and moved when they are needed.

Nothing is slower than it is written there: no logging, no check for numbers that are not finite,
no transfer that waits for the device. The layers are torch's own and the same as the package's.
"""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tarflow import (
    AutoregressiveTransform,
    ExpScale,
    GaussianNoise,
    Patchify,
    Pixels,
    Reverse,
    TarFlow,
)
from tarflow.data.images import ArrayDataset
from tarflow.flows.base import LOG_2_PI
from tarflow.machine.device import now
from tarflow.nn.layers import Block

LEARNING_RATE = 1e-5
"""Low: a large flow that starts at 1e-4 without warm-up diverges; skipped steps take long."""


class NormalizedImages(Dataset):
    """Images as float32 in [-1, 1], scaled one by one as they are read."""

    def __init__(self, data: ArrayDataset):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, context = self.data[index]
        return (pixels.to(torch.float32) / 255 - 0.5) / 0.5, context["label"]


class TrainingBaseline:
    """Trains a copy of a flow.

    Args:
        flow: The flow, with the exponential scale and Gaussian noise on 256 levels.
        data: Images as bytes, and labels.
        batch_size: Number of images in a step.
        dtype: What autocast computes in; nothing is cast in float32 and above.
        device: Where to train.
        class_dropout: Probability of dropping a label.
    """

    def __init__(
        self,
        flow: TarFlow,
        data: ArrayDataset,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
        class_dropout: float = 0.1,
    ):
        self.flow, self.dtype, self.device = copy.deepcopy(flow), dtype, device
        self.class_dropout = class_dropout
        self.loader = DataLoader(NormalizedImages(data), batch_size, shuffle=True, drop_last=True)
        length, noise = flow.base.shape[0], cast(GaussianNoise, flow.noise)
        self.noise_std = noise.std
        self.mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        assert flow.codec == Pixels(256)
        decoded = [t for t in flow.transform if isinstance(t, AutoregressiveTransform)]
        assert all(isinstance(transform.scale, ExpScale) for transform in decoded)

    def run(self, warmup: int, steps: int) -> float:
        """Train with a new optimizer; return the seconds of a step after the first ones."""
        batches = self._batches()
        self.flow.to(self.device).train()
        try:
            optimizer = torch.optim.AdamW(
                self.flow.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=1e-4
            )
            for _ in range(warmup):
                self.step(optimizer, *next(batches))
            begin = now(self.device)
            for _ in range(steps):
                self.step(optimizer, *next(batches))
            return (now(self.device) - begin) / steps
        finally:
            self.flow.zero_grad()
            self.flow.cpu()

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, label: Tensor) -> None:
        """One step."""
        x, label = x.to(self.device), label.to(self.device)
        x = x + self.noise_std * torch.randn_like(x)
        dropped = torch.rand(len(label), device=self.device) < self.class_dropout
        loss = self.loss(x, torch.where(dropped, -1, label))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss(self, x: Tensor, label: Tensor | None) -> Tensor:
        """Negative log-likelihood, in nats per dimension.

        Args:
            x: Noisy images.
            label: Classes, -1 for none; None for a flow without.
        """
        total = torch.zeros(len(x), device=x.device)
        with self._autocast():
            for transform in self.flow.transform:
                if isinstance(transform, Patchify):
                    x = _cut_patches(x, transform)
                elif isinstance(transform, Reverse):
                    x = x.flip(1)
                elif isinstance(transform, AutoregressiveTransform):
                    x, log_det = self._transform(transform, x, label)
                    total = total + log_det
        log_prob = -0.5 * (x**2 + LOG_2_PI).sum(dim=(1, 2)) + total
        return -log_prob.mean() / self.flow.num_dims

    def _transform(
        self, transform: AutoregressiveTransform, x: Tensor, label: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The whole sequence at once; the output at a position is for the next one."""
        network = transform.network
        h = network.proj_in(x) + network.position_embedding
        embedding = getattr(transform, "label_embedding", None)
        if embedding is not None and label is not None:
            h = h + embedding(label)[:, None]
        for block in network.blocks:
            h = self._layer(cast(Block, block), h)
        out = network.proj_out(h)
        out = torch.cat([torch.zeros_like(out[:, :1]), out[:, :-1]], dim=1)
        alpha, mu = (part.to(x.dtype) for part in out.chunk(2, dim=-1))
        return (x - mu) * torch.exp(-alpha), -alpha.sum(dim=(1, 2))

    def _layer(self, block: Block, h: Tensor) -> Tensor:
        """One layer."""
        h = h + self._attend(block, block.attention_norm(h))
        return h + block.mlp(block.mlp_norm(h))

    def _attend(self, block: Block, h: Tensor) -> Tensor:
        """Attention of every position to itself and those before it."""
        attention = block.attention
        q, k, v = attention.qkv(h).chunk(3, dim=-1)
        pattern = "batch length (heads dim) -> batch heads length dim"
        q, k, v = (rearrange(part, pattern, dim=attention.head_dim) for part in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        attended = rearrange(attended, "batch heads length dim -> batch length (heads dim)")
        return attention.proj(attended)

    def _autocast(self):
        """What the forward pass runs in."""
        lowered = self.dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, self.dtype) if lowered else nullcontext()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches, epoch after epoch."""
        while True:
            yield from self.loader


def _cut_patches(x: Tensor, patchify: Patchify) -> Tensor:
    """Cut images into patches in raster order."""
    p = patchify.patch_size
    pattern = "batch channels (rows p) (columns q) -> batch (rows columns) (channels p q)"
    return rearrange(x, pattern, p=p, q=p)
