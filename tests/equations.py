"""Written anew from the method's equations: no cache, no batching, no shortcuts."""

import math

import torch
from torch import Tensor

from tarflow import AutoregressiveTransform, Reverse, TarFlow
from tarflow.nn.attention import CausalSelfAttention, Window


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


def root_mean_square(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """One vector, divided by the root of the mean of its squares."""
    mean = sum(number**2 for number in x.tolist()) / len(x)
    return x / math.sqrt(mean + eps) * weight


def swiglu(x: Tensor, up: torch.nn.Linear, down: torch.nn.Linear) -> Tensor:
    """One vector through a gated MLP; the gate's rows of the first matrix come first."""
    hidden = down.in_features
    gate = up.weight[:hidden] @ x + up.bias[:hidden]
    value = up.weight[hidden:] @ x + up.bias[hidden:]
    return down.weight @ (gate / (1 + torch.exp(-gate)) * value) + down.bias


def turned(x: Tensor, angles: list[float]) -> Tensor:
    """One head's vector: the pair of numbers k and k + n turned by the k-th of n angles."""
    result, num_pairs = x.clone(), len(angles)
    for k, angle in enumerate(angles):
        a, b = x[k], x[k + num_pairs]
        result[k] = a * math.cos(angle) - b * math.sin(angle)
        result[k + num_pairs] = a * math.sin(angle) + b * math.cos(angle)
    return result


def grid_angles(place: tuple[int, int], head_dim: int, base: float) -> list[float]:
    """By which a quarter of a head's numbers, and another, turn for the row; then the column."""
    n = head_dim // 4
    return [step * base ** (-k / n) for step in place for k in range(n)]


def attention(
    module: CausalSelfAttention, x: Tensor, angles: list[list[float]] | None = None
) -> Tensor:
    """One sequence through attention with normalized queries and keys and a gate."""
    size, attended = module.head_dim, torch.zeros_like(x)
    for head in range(module.num_heads):
        q, k, v = [], [], []
        for i, vector in enumerate(x):
            parts = module.qkv(vector).view(3, module.num_heads, size)[:, head]
            query = root_mean_square(parts[0], module.query_norm.weight)
            key = root_mean_square(parts[1], module.key_norm.weight)
            q.append(query if angles is None else turned(query, angles[i]))
            k.append(key if angles is None else turned(key, angles[i]))
            v.append(parts[2])
        for i, query in enumerate(q):
            weights = [math.exp(float(query @ key) / math.sqrt(size)) for key in k[: i + 1]]
            mixed = sum(w * value for w, value in zip(weights, v, strict=False)) / sum(weights)
            attended[i, head * size : (head + 1) * size] = mixed
    gate = module.gate.linear
    rows = [a / (1 + torch.exp(-gate(b))) for a, b in zip(attended, x, strict=True)]
    return torch.stack([module.proj(row) for row in rows])
