"""Paths from one datum to another that a flow keeps likely."""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.decoding import DecodeKeywords, DecodeOptions
from tarflow.flows.flow import Flow


@torch.no_grad()
def interpolate(
    flow: Flow,
    x0: Float[Tensor, "batch ..."],
    x1: Float[Tensor, "batch ..."],
    num_steps: int = 8,
    context: ContextLike = None,
    *,
    options: DecodeOptions = DecodeOptions(),
    **keywords: Unpack[DecodeKeywords],
) -> Float[Tensor, "batch steps ..."]:
    """Walk from one datum to another through noise that is as typical as theirs.

    Noise in many dimensions lies near a sphere, which a straight line would leave. So the
    direction rotates, over all dimensions of an example, while the length changes linearly (arXiv
    1609.04468). Where the ends point in the same or opposite directions, the path is straight.

    Args:
        x0: Where the paths begin: the first step.
        x1: Where they end: the last step.
        num_steps: Number of steps, both ends included.
        context: What the density is conditioned on, one row per path.
        options: How to decode.
        **keywords: The fields of `DecodeOptions` to be other than in the options.

    Example:
        >>> from tarflow import TarFlow
        >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1).eval()
        >>> x0, x1 = flow.sample(2), flow.sample(2)
        >>> path = interpolate(flow, x0, x1, num_steps=5)
        >>> path.shape, torch.allclose(path[:, 0], x0, atol=1e-4)
        (torch.Size([2, 5, 1, 8, 8]), True)

    Raises:
        ConfigurationError: The shapes differ, or there are fewer than two steps.
    """
    flow.check_data(x0, "x0")
    if isinstance(x1, Tensor) and x0.shape != x1.shape:
        raise ConfigurationError(
            f"x0 has shape {tuple(x0.shape)} and x1 {tuple(x1.shape)}: pass the same shape twice"
        )
    flow.check_data(x1, "x1")
    check_integer("num_steps", num_steps, least=2)
    rows = Context.of(context, len(x0), x0.device)
    path = _rotate(flow(x0, rows)[0], flow(x1, rows)[0], num_steps)
    repeated = rows.map(lambda part: part.repeat_interleave(num_steps))
    x = flow.inverse(path.flatten(0, 1), repeated, options=options, **keywords)
    return x.unflatten(0, path.shape[:2])


def _rotate(
    start: Float[Tensor, "batch length patch_dim"],
    end: Float[Tensor, "batch length patch_dim"],
    num_steps: int,
) -> Float[Tensor, "batch steps length patch_dim"]:
    """Points at even angles between two vectors, and of evenly spaced lengths."""
    a, b = start.flatten(1)[:, None], end.flatten(1)[:, None]
    t = torch.linspace(0, 1, num_steps, dtype=a.dtype, device=a.device)[:, None]
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    a, b = a / length_a, b / length_b
    angle = 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))[..., None]
    direction = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    rotated = torch.lerp(length_a, length_b, t) * direction
    straight = torch.lerp(start.flatten(1)[:, None], end.flatten(1)[:, None], t)
    # Also true where a vector is zero, and has no angle to another.
    degenerate = ~(angle.sin() > 1e-6)
    return torch.where(degenerate, straight, rotated).unflatten(-1, start.shape[1:])
