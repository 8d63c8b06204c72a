"""Tiny models with random weights: fresh ones are the identity, which would hide errors."""

from typing import Any, TypeVar

import torch
from torch import nn

from tarflow import (
    AdaptiveNorm,
    AutoregressiveTransform,
    ExpScale,
    FirstPosition,
    FixedFirst,
    Flow,
    LabelConditioner,
    LayerNormalization,
    LearnedPositions,
    Patchify,
    Permute,
    PreNorm,
    RootMeanSquare,
    RotaryGrid,
    RotaryPositions,
    Scale,
    SigmoidGate,
    StandardNormal,
    Student,
    SwiGLU,
    TarFlow,
    TokenFlow,
    VectorFlow,
)
from tarflow.nn.transformer import CausalTransformer

Module = TypeVar("Module", bound=nn.Module)
Taught = TypeVar("Taught", bound=Student)

MODERN = PreNorm(RootMeanSquare(), SwiGLU(), RootMeanSquare(), SigmoidGate())

NETWORKS: dict[str, dict[str, Any]] = {
    "RootMeanSquare": {"layer": PreNorm(RootMeanSquare())},
    "SwiGLU": {"layer": PreNorm(mlp=SwiGLU())},
    "query-key norm": {"layer": PreNorm(query_key_norm=LayerNormalization())},
    "SigmoidGate": {"layer": PreNorm(gate=SigmoidGate())},
    "AdaptiveNorm": {"layer": AdaptiveNorm()},
    "RotaryPositions": {"positions": RotaryPositions(added=LearnedPositions())},
    "RotaryGrid": {"positions": RotaryGrid(base=100.0)},
    "output norm": {"output_norm": RootMeanSquare()},
    "all parts": {
        "layer": AdaptiveNorm(*vars(MODERN).values()),
        "positions": RotaryGrid(),
        "output_norm": LayerNormalization(),
    },
}
"""Transformers of every kind but the plain one."""


def randomized(module: Module, std: float = 0.05, seed: int = 0) -> Module:
    """Add normal noise from a fixed seed to every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return module


def tiny_network(
    in_features: int, out_features: int, length: int, num_layers: int = 2, **parts: Any
) -> CausalTransformer:
    """A transformer with two heads."""
    sizes = in_features, out_features, length, 16, num_layers
    return randomized(CausalTransformer(*sizes, head_dim=8, **parts))


def tiny_autoregressive(
    scale: Scale,
    length: int = 5,
    patch_dim: int = 2,
    num_layers: int = 2,
    first: FirstPosition = FixedFirst(),
    **parts: Any,
) -> AutoregressiveTransform:
    """An autoregressive transform with three classes."""
    outputs = scale.num_outputs * patch_dim
    network = tiny_network(patch_dim, outputs, length + first.num_added, num_layers, **parts)
    transform = AutoregressiveTransform(network, scale, [LabelConditioner(3)], first)
    randomized(transform.get_submodule("label_embedding"))
    return transform


def tiny_flow(
    image_size: Any = 4, patch_size: int = 2, num_channels: int = 2, **options: Any
) -> TarFlow:
    """A TarFlow of three transforms, over 2 x 4 x 4 images unless told otherwise."""
    sizes = {"num_transforms": 3, "num_layers": 2, "model_dim": 16, "head_dim": 8}
    return randomized(TarFlow(image_size, patch_size, num_channels, **(sizes | options)))


def tiny_student(kind: type[Taught], flow: TarFlow, **options: Any) -> Taught:
    """A student of a flow, with random weights."""
    sizes = {"num_layers": 2, "model_dim": 16, "head_dim": 8}
    return randomized(kind.of(flow, **(sizes | options)))


def tough_flow(
    scale: Scale = ExpScale(), num_classes: int = 3, std: float = 0.15, length: int = 24
) -> Flow:
    """A flow of two transforms over sequences in random orders, which drafts approach slowly.

    Its data are `length` positions of two numbers, as images of two channels and one row.
    """
    generator = torch.Generator().manual_seed(0)
    transforms = [Patchify((1, length), 1)]
    for seed in range(2):
        network = CausalTransformer(2, 2 * scale.num_outputs, length, 16, 1, head_dim=8)
        labels = [LabelConditioner(num_classes)] if num_classes else []
        transform = randomized(AutoregressiveTransform(network, scale, labels), std, seed)
        with torch.no_grad():
            network.proj_out.weight *= 0.5  # the values stay of order one
        transforms += [transform, Permute(torch.randperm(length, generator=generator).tolist())]
    return Flow(transforms, StandardNormal(length, 2)).eval()


TINY = {"num_transforms": 2, "num_layers": 1, "model_dim": 16, "head_dim": 8}


def tiny_tokens(length: int = 5, token_dim: int = 2, **options: Any) -> TokenFlow:
    """A flow of sequences with two transforms."""
    return randomized(TokenFlow(length, token_dim, **{**TINY, **options}))


def tiny_vectors(dim: int, **options: Any) -> VectorFlow:
    """A flow of vectors with two transforms."""
    return randomized(VectorFlow(dim, **{**TINY, **options}))
