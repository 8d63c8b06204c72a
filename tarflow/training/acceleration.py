"""How the transformers of a model compute while it trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tarflow.errors import ConfigurationError
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.flow import Flow
from tarflow.nn.attention import CausalSelfAttention
from tarflow.nn.kernels import AttentionKernel
from tarflow.nn.transformer import CausalTransformer, Transformer


def use_attention(
    model: nn.Module, kernel: AttentionKernel, device: torch.device, dtype: torch.dtype
) -> None:
    """Let every `CausalSelfAttention` in causal transformers attend by a kernel, in place.

    Args:
        kernel: The kernel, or `AutoAttention()`.
        device: Where the model will compute.
        dtype: Precision in which it will.

    Raises:
        ConfigurationError: The kernel cannot compute there; says why.
    """
    serving: dict[tuple[int, ...], AttentionKernel] = {}
    for network in networks(model):
        if not isinstance(network, CausalTransformer):
            continue
        for attention in network.modules():
            if isinstance(attention, CausalSelfAttention):
                # The last position predicts nothing.
                shape = (1, attention.num_heads, network.length - 1, attention.head_dim)
                if shape not in serving:
                    like = torch.empty(shape, device=device, dtype=dtype)
                    serving[shape] = kernel.serving(like)
                attention.kernel = serving[shape]


def recompute(model: nn.Module, num_layers: int) -> None:
    """Let the first layers of every transformer keep nothing for gradients, in place.

    Args:
        num_layers: Number of layers of each transformer, or all of one that has fewer: 0 keeps
            all, the largest depth keeps the inputs of layers alone.

    Raises:
        ConfigurationError: No transformer has as many layers.
    """
    deepest = max((len(network.blocks) for network in networks(model)), default=0)
    if not 0 <= num_layers <= deepest:
        raise ConfigurationError(
            f"checkpointed_layers {num_layers} must be in [0, {deepest}], the number of layers of"
            " a transformer"
        )
    for network in networks(model):
        network.num_recomputed = min(num_layers, len(network.blocks))


def compile_blocks(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the layers of a model, in place: one graph serves all of a kind, and names stay."""
    for network in dict.fromkeys(networks(model)):
        for block in network.blocks:
            block.compile(dynamic=False, backend=backend)


@contextmanager
def compiling() -> Iterator[None]:
    """Tell what to do where layers cannot be compiled, which shows when they compute at first.

    Raises:
        ConfigurationError: A compiler is missing, or fails.
    """
    from torch._dynamo.exc import TorchDynamoException  # half a second, where nothing is compiled

    try:
        yield
    except TorchDynamoException as error:
        first = " ".join(str(error).partition("\n\n")[0].split())
        raise ConfigurationError(
            f"the layers cannot be compiled ({type(error).__name__}: {first}):"
            " module.compile=false trains without, and `tarflow doctor` tells whether a compiler"
            " and Python's headers are there"
        ) from error


def autoregressive_transforms(flow: Flow) -> list[AutoregressiveTransform]:
    """The transforms of a flow that have a transformer, from the data to the noise."""
    return [part for part in flow.transform if isinstance(part, AutoregressiveTransform)]


def networks(model: nn.Module) -> list[Transformer]:
    """The transformers of a model.

    Those of a flow's transforms go from the data to the noise, and shared ones come again.
    """
    if isinstance(model, Flow):
        return [transform.network for transform in autoregressive_transforms(model)]
    return [part for part in model.modules() if isinstance(part, Transformer)]


def multiplied_in(precision: str, weights: torch.dtype) -> torch.dtype:
    """What products are computed in, by the name of Lightning's precision, such as bf16-mixed."""
    halves = {"bf16": torch.bfloat16, "16": torch.float16}
    return halves.get(precision.partition("-")[0], weights)
