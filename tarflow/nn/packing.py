"""A transformer whose modules run on the CPU's fastest kernels, for decoding."""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.nn.attention import WHOLE, CausalSelfAttention, KVCache, Window
from tarflow.nn.cache_memory import CacheMemory
from tarflow.nn.feed_forward import MLP, GatedMLP
from tarflow.nn.gates import SigmoidGating
from tarflow.nn.layers import AdaptiveBlock, Block
from tarflow.nn.lowering import LoweredLinear, RoundedLinear, is_plain, is_plain_linear
from tarflow.nn.positions import Rotation
from tarflow.nn.products import (
    MULTIPLY_HALF,
    REORDER,
    REORDER_HALF,
    can_multiply,
    has_half_kernels,
    multiply,
)
from tarflow.nn.recording import Recorder
from tarflow.nn.snapshot import Outline
from tarflow.nn.transformer import CausalTransformer, Condition, Modulation, Prefix

FEW_ROWS = 16
"""Rows up to which the product computes the GELU on the way; with more, it is faster apart.

With AVX-512 it never is.
"""
FUSES_ALWAYS = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


class PackedTransformer:
    """A transformer whose linear layers hold their weights in the layout of oneDNN's kernels.

    A step multiplies few rows by every weight, so that reading the weights takes most of its time,
    and calls of modules most of the rest (docs/experiments.md has the profile). Modules of exactly
    the types that `hasten` knows, without hooks, become ones that compute the same faster; all
    others, those of a subclass or an adapter too, run as they are.

    Args:
        network: The transformer, on the CPU; what is packed is its modules themselves.
        memory: Where caches lie; transformers that decode in turn share it.
    """

    def __init__(self, network: CausalTransformer, memory: CacheMemory | None = None):
        self.memory = memory or CacheMemory()
        self.outline = Outline(network).description
        self.dtype = network.dtype
        self.network = network
        modules = [*network.modules()]
        for module in reversed(modules):  # what is within comes first
            hasten(module)
        # Products of rows of matrices: of three dimensions they take 2 us more of 29.
        self.takes_rows = all(type(module) in ROWWISE for module in modules)
        self.recorder = Recorder(network, self.outline)

    def new_cache(self, rows: int) -> KVCache:
        """A cache of so many sequences, in which nothing counts as written."""
        return self.memory.new_cache(self.outline, rows, self.network.new_cache)

    def conditioned(self, vector: Float[Tensor, "batch *length model_dim"] | None) -> Condition:
        """As the transformer's own."""
        return self.network.conditioned(vector)

    def __call__(
        self,
        x: Float[Tensor, "batch window in_features"],
        condition: Condition = None,
        window: Window = WHOLE,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch window out_features"]:
        """Transform the vectors of a window."""
        if self.takes_rows and x.shape[1] == 1 and prefix is None:
            return self.network(x.squeeze(1), condition, window).unsqueeze(1)
        return self.network(x, condition, window, prefix=prefix)


class PackedLinear(nn.Linear):
    """A linear layer whose weight lies in the layout of oneDNN's kernels too.

    With 2 to 64 rows of width 256 it takes half the time of a plain one, with many the same.
    """

    packed: Tensor

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer."""
        return multiply(x, self.packed, self.bias)


class PackedNorm(nn.LayerNorm):
    """A LayerNorm that is called without detours: a microsecond of five."""

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch inputs"]:
        """Apply the layer."""
        return torch.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class PackedRootMeanSquare(nn.RMSNorm):
    """An RMSNorm of four kernels: half the time of torch's on CPUs, which has no fused one."""

    scaled: Tensor
    floor: Tensor

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch inputs"]:
        """Apply the layer."""
        precise = self.floor.dtype
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
        return (x * self.scaled).div_(torch.hypot(length, self.floor)).to(x.dtype)


class ActivatedLinear(PackedLinear):
    """A packed linear layer and the GELU that follows it."""

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer and then GELU."""
        return activated(x, self.packed, self.bias)


class PackedLoweredLinear(LoweredLinear):
    """A `LoweredLinear` whose weight lies in the layout of oneDNN's kernels too.

    Its outputs are of the precision `outputs`.
    """

    packed: Tensor
    outputs: torch.dtype

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer."""
        x = x.to(self.lowered.dtype)
        return multiply(x, self.packed, self.lowered_bias).to(self.outputs)


class ActivatedLoweredLinear(PackedLoweredLinear):
    """A packed `LoweredLinear` and the GELU that follows it."""

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer and then GELU."""
        x = x.to(self.lowered.dtype)
        return activated(x, self.packed, self.lowered_bias).to(self.outputs)


class PackedRoundedLinear(RoundedLinear):
    """A `RoundedLinear` whose weight lies in the layout of FBGEMM's kernels too.

    With 2 rows of width 256 it takes a third of the time of a `PackedLinear`, with many two thirds
    (docs/experiments.md).
    """

    packed: Any

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer."""
        return MULTIPLY_HALF(x, self.packed)


class ActivatedRoundedLinear(PackedRoundedLinear):
    """A packed `RoundedLinear` and the GELU that follows it."""

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layer and then GELU."""
        return F.gelu(MULTIPLY_HALF(x, self.packed))


def activated(
    x: Float[Tensor, "*batch inputs"], packed: Tensor, bias: Tensor | None
) -> Float[Tensor, "*batch outputs"]:
    """The GELU of a packed product."""
    if FUSES_ALWAYS or x.shape[:-1].numel() <= FEW_ROWS:
        return multiply(x, packed, bias, "gelu")
    return F.gelu(multiply(x, packed, bias))


def direct(kind: type[nn.Module]) -> type[nn.Module]:
    """A type of modules whose calls are those of `forward`: there are no hooks to look for."""
    return type(f"Direct{kind.__name__}", (kind,), {"__call__": kind.forward})


CALLED = (
    *(CausalTransformer, Block, AdaptiveBlock, CausalSelfAttention),
    *(MLP, GatedMLP, SigmoidGating, Modulation, nn.Sequential),
)

DIRECT = {nn.LayerNorm: PackedNorm, **{kind: direct(kind) for kind in CALLED}}
"""Types of modules that are called faster."""

ACTIVATED = {
    PackedLinear: ActivatedLinear,
    PackedLoweredLinear: ActivatedLoweredLinear,
    PackedRoundedLinear: ActivatedRoundedLinear,
}
"""Types of packed layers, and what they are together with a GELU."""

OTHERS = {
    *(nn.ModuleList, nn.GELU, nn.Dropout, Rotation),
    *(LoweredLinear, RoundedLinear, PackedRootMeanSquare),
}

ROWWISE = {*ACTIVATED, *ACTIVATED.values(), *DIRECT.values(), *OTHERS}
"""Types of modules that take rows of matrices as well as windows of sequences."""


def hasten(module: nn.Module) -> None:
    """Let a module, in place, do what it does faster; leave it alone unless its type is known."""
    kind = type(module)
    if is_packable(module):
        vars(module)["packed"] = REORDER(cast(Tensor, module.weight).detach())
        module.__class__ = PackedLinear
    elif type(module) is LoweredLinear and can_multiply(module.lowered):
        vars(module)["packed"] = REORDER(module.lowered)
        vars(module)["outputs"] = module.weight.dtype
        module.__class__ = PackedLoweredLinear
    elif type(module) is RoundedLinear and module.weight.is_cpu and has_half_kernels():
        vars(module)["packed"] = REORDER_HALF(module.weight, module.bias)
        module.__class__ = PackedRoundedLinear
    elif type(module) is nn.RMSNorm and is_plain(module) and is_scaled(module):
        size, weight = module.normalized_shape[0], module.weight.detach()
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        vars(module)["scaled"] = weight * size**0.5
        vars(module)["floor"] = weight.new_tensor((size * cast(float, module.eps)) ** 0.5)
        module.__class__ = PackedRootMeanSquare
    elif kind in DIRECT and is_plain(module):
        module.__class__ = DIRECT[kind]
        if isinstance(module, nn.Sequential):
            module._modules = shorten(module)
        if has_own_results(module):  # an addition in place takes half the time
            vars(module)["add"] = Tensor.add_
    else:
        return
    # Attributes of the object are found at once, those of `nn.Module` after a call.
    vars(module).update(module._parameters | module._modules | module._buffers)
    if isinstance(module, CausalTransformer):
        vars(module)["blocks"] = [*module.blocks]  # walked in half the time


def shorten(sequence: nn.Sequential) -> dict[str, nn.Module]:
    """The steps of a sequence: each GELU joined to a packed layer before it, no idle dropout.

    What a lowered layer gives to the next stays in the lower precision.
    """
    steps: dict[str, nn.Module] = {}
    last = ""
    for name, step in sequence._modules.items():
        if type(step) is nn.Dropout and is_plain(step) and not (step.training and step.p):
            continue
        before = steps.get(last)
        if is_gelu(step) and type(before) in ACTIVATED:
            steps[last] = joined = copy.copy(cast(nn.Module, before))
            joined.__class__ = ACTIVATED[type(joined)]
            continue
        if type(step) is PackedLoweredLinear and type(before) is ActivatedLoweredLinear:
            vars(before)["outputs"] = step.lowered.dtype
        steps[name], last = step, name
    return steps


def has_own_results(module: nn.Module) -> bool:
    """Whether what a module adds to was made for it alone, by a product."""
    if isinstance(module, Block):
        last = [*module.mlp.children()][-1:] if isinstance(module.mlp, MLP) else []
        made = [module.attention.proj if type(module.attention) in ROWWISE else None, *last]
        return len(made) == 2 and all(type(each) in ACTIVATED for each in made)
    return isinstance(module, CausalTransformer) and type(module.proj_in) is PackedLinear


def is_scaled(norm: nn.RMSNorm) -> bool:
    """Whether a norm is one of vectors, with weights and a number that is added."""
    return len(norm.normalized_shape) == 1 and norm.weight is not None and norm.eps is not None


def is_gelu(module: nn.Module) -> bool:
    """Whether a module is the exact GELU."""
    return type(module) is nn.GELU and is_plain(module) and module.approximate == "none"


def is_packable(module: nn.Module) -> bool:
    """Whether a module is a linear layer for which torch has the kernels here."""
    return is_plain_linear(module) and can_multiply(cast(Tensor, module.weight))


def can_pack(network: CausalTransformer) -> bool:
    """Whether a transformer has a layer to pack."""
    return any(map(is_packable, network.modules()))
