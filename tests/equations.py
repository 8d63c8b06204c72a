"""Sampling, written anew from the method's equations: no cache, no batching, no shortcuts."""

import torch
from torch import Tensor

from tarflow import AutoregressiveTransform, Reverse, TarFlow
from tarflow.nn.attention import Window


def predict(transform: AutoregressiveTransform, before: Tensor, label: Tensor, temperature=1.0):
    """Log-scale and shift after the values `before`, each evaluated from scratch."""
    condition = null_aware_embedding(transform, label)
    divisor = torch.full((len(before),), temperature, dtype=before.dtype)
    raw = transform.network(before, condition, Window(temperature=divisor))[:, -1]
    return raw.chunk(2, dim=-1)


def null_aware_embedding(transform: AutoregressiveTransform, label: Tensor) -> Tensor | None:
    """Each label's vector; for -1 the mean of all."""
    if getattr(transform, "label_embedding", None) is None:
        return None
    vectors = transform.label_embedding.weight
    return torch.stack([vectors[i] if i >= 0 else vectors.mean(dim=0) for i in label.tolist()])


def invert(transform, z: Tensor, label: Tensor, rule=None, temperature=1.0) -> Tensor:
    """Decode one transform.

    A rule takes (alpha_c, mu_c, alpha_n, mu_n, i / (T - 1)), and gives scale and shift.
    """
    x = z[:, :1]
    for i in range(1, z.shape[1]):
        log_scale, shift = predict(transform, x, label)
        scale = log_scale.exp()
        if rule is not None:
            null = predict(transform, x, torch.full_like(label, -1), temperature)
            scale, shift = rule(log_scale, shift, *null, i / (z.shape[1] - 1))
        x = torch.cat([x, (z[:, i] * scale + shift)[:, None]], dim=1)
    return x


@torch.no_grad()
def sample(flow: TarFlow, z: Tensor, label: Tensor, rule=None, temperature=1.0, depths=range(99)):
    """Turn noise into images, guided at some depths: 0 is that of the first transform inverted."""
    depth = 0
    for transform in reversed(list(flow.transform)[1:]):
        if isinstance(transform, Reverse):
            z = z.flip(1)
            continue
        z = invert(transform, z, label, rule if depth in depths else None, temperature)
        depth += 1
    return unpatchify(z, flow.description.patch_size, flow.image_shape)


def unpatchify(tokens: Tensor, size: int, image_shape: tuple[int, int, int]) -> Tensor:
    """Lay patches out in raster order."""
    channels, _, width = image_shape
    image = tokens.new_zeros(len(tokens), *image_shape)
    for i, patch in enumerate(tokens.unbind(dim=1)):
        row, column = divmod(i * size, width)
        image[:, :, row * size : (row + 1) * size, column : column + size] = patch.view(
            -1, channels, size, size
        )
    return image
