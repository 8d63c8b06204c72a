"""How the transformers of a flow compute while it trains."""

from collections.abc import Callable
from typing import Any

import torch

from tarflow.errors import ConfigurationError
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.flow import Flow
from tarflow.nn.attention import CausalSelfAttention
from tarflow.nn.kernels import AttentionKernel
from tarflow.nn.transformer import CausalTransformer


def use_attention(
    flow: Flow, kernel: AttentionKernel, device: torch.device, dtype: torch.dtype
) -> None:
    """Let every `CausalSelfAttention` in a flow's transformers attend by a kernel, in place.

    Args:
        kernel: The kernel, or `AutoAttention()`.
        device: Where the flow will compute.
        dtype: Precision in which it will.

    Raises:
        ConfigurationError: The kernel cannot compute there; says why.
    """
    serving: dict[tuple[int, ...], AttentionKernel] = {}
    for network in networks(flow):
        for attention in network.modules():
            if isinstance(attention, CausalSelfAttention):
                # The last position predicts nothing.
                shape = (1, attention.num_heads, network.length - 1, attention.head_dim)
                if shape not in serving:
                    like = torch.empty(shape, device=device, dtype=dtype)
                    serving[shape] = kernel.serving(like)
                attention.kernel = serving[shape]


def recompute(flow: Flow, num_layers: int) -> None:
    """Let the first layers of every transformer keep nothing for gradients, in place.

    Args:
        num_layers: Number of layers of each transformer, or all of one that has fewer: 0 keeps
            all, the largest depth keeps the inputs of layers alone.

    Raises:
        ConfigurationError: No transformer has as many layers.
    """
    deepest = max((len(network.blocks) for network in networks(flow)), default=0)
    if not 0 <= num_layers <= deepest:
        raise ConfigurationError(
            f"checkpointed_layers {num_layers} must be in [0, {deepest}], the number of layers of"
            " a transformer"
        )
    for network in networks(flow):
        network.num_recomputed = min(num_layers, len(network.blocks))


def compile_blocks(flow: Flow, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the layers of a flow, in place: one graph serves all of a kind, and names stay."""
    for network in dict.fromkeys(networks(flow)):
        for block in network.blocks:
            block.compile(dynamic=False, backend=backend)


def autoregressive_transforms(flow: Flow) -> list[AutoregressiveTransform]:
    """The transforms of a flow that have a transformer, from the data to the noise."""
    return [part for part in flow.transform if isinstance(part, AutoregressiveTransform)]


def networks(flow: Flow) -> list[CausalTransformer]:
    """The transformer of each transform, from the data to the noise; shared ones come again."""
    return [transform.network for transform in autoregressive_transforms(flow)]


def multiplied_in(precision: str, weights: torch.dtype) -> torch.dtype:
    """What products are computed in, by the name of Lightning's precision, such as bf16-mixed."""
    halves = {"bf16": torch.bfloat16, "16": torch.float16}
    return halves.get(precision.partition("-")[0], weights)
