"""Packed networks, against the networks they are made of."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from tarflow import AutoregressiveTransform, ExpScale, Flow, Networks, Patchify, StandardNormal
from tarflow.nn.attention import CausalSelfAttention, KVCache, Window
from tarflow.nn.layers import Layer
from tarflow.nn.lowering import LoweredLinear, RoundedLinear, lower_products, round_weights
from tarflow.nn.packing import (
    FEW_ROWS,
    ActivatedLinear,
    ActivatedLoweredLinear,
    ActivatedRoundedLinear,
    CacheMemory,
    PackedLinear,
    PackedLoweredLinear,
    PackedRootMeanSquare,
    PackedRoundedLinear,
    PackedTransformer,
    hasten,
    is_packable,
)
from tarflow.nn.products import has_half_kernels, has_kernels
from tarflow.nn.transformer import CausalTransformer

from ..models import randomized, tiny_network


@pytest.fixture
def network() -> CausalTransformer:
    """Seven positions, two layers, in float32, with weights that make a difference."""
    return randomized(tiny_network(3, 4, 7), std=0.3)


def packed(network: CausalTransformer, memory: CacheMemory | None = None) -> PackedTransformer:
    """A copy, packed."""
    return PackedTransformer(copy.deepcopy(network), memory)


def decoded(network, x, condition, window: int, temperature=None) -> Tensor:
    """The outputs, some positions at a time."""
    return in_steps(network, KVCache(2, 7), x, condition, window, temperature)


@torch.no_grad()
def in_steps(network, cache, x, condition=None, window=1, temperature=None) -> Tensor:
    """The outputs, some positions at a time, with a cache."""
    parts = [
        network(x[:, i : i + window], condition, Window(i, cache, temperature))
        for i in range(0, 7, window)
    ]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("window", [1, 3, 7])
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 4, 33])
def test_a_packed_network_computes_the_same(network, window, conditional, batch):
    x, condition, temperature = torch.randn(batch, 7, 3), None, None
    if conditional:
        condition, temperature = torch.randn(batch, 16), torch.rand(batch) + 0.5
    expected = decoded(network, x, condition, window, temperature)
    found = decoded(packed(network), x, condition, window, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, FEW_ROWS, FEW_ROWS + 1])
def test_a_packed_layer_is_linear_with_what_follows(rows, bias):
    linear = nn.Linear(3, 6, bias=bias)
    sequence = nn.Sequential(copy.deepcopy(linear), nn.GELU(), nn.Dropout(0.5)).eval()
    x = 3 * torch.randn(rows, 1, 3)
    expected = linear(x)
    hasten(linear)
    for module in (sequence[0], sequence):
        hasten(module)
    assert [type(step) for step in sequence] == [ActivatedLinear]
    torch.testing.assert_close(linear(x), expected, rtol=1e-5, atol=1e-6)
    activated = expected * (1 + torch.erf(expected / 2**0.5)) / 2
    torch.testing.assert_close(sequence(x), activated, rtol=1e-5, atol=1e-6)


def test_every_linear_layer_of_a_network_is_packed_and_called_directly(network):
    ready = packed(network).network
    linear = [module for module in ready.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 10
    assert all(isinstance(module, PackedLinear) for module in linear)
    assert [type(step) for step in ready.blocks[0].mlp] == [ActivatedLinear, PackedLinear]


# --- What is not known runs as it is ----------------------------------------------------------


class Doubled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Adapter(nn.Module):
    """A linear layer and a correction of low rank, as adapters have it."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, 2)
        self.up = nn.Linear(2, linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def subclass(network: CausalTransformer) -> None:
    network.blocks[0].mlp[0] = randomized(Doubled(16, 64), 0.3, seed=1)


def adapt(network: CausalTransformer) -> None:
    for block in network.blocks:
        block.attention.qkv = randomized(Adapter(block.attention.qkv), 0.1, seed=1)
    network.proj_in = randomized(Adapter(network.proj_in), 0.1, seed=2)


def hook(network: CausalTransformer) -> None:
    network.blocks[0].mlp[0].register_forward_hook(lambda module, inputs, output: output + 0.5)


def hook_before(network: CausalTransformer) -> None:
    network.blocks[1].attention_norm.register_forward_pre_hook(
        lambda module, inputs: (inputs[0] + inputs[0].square(),)
    )


def hook_keywords(network: CausalTransformer) -> None:
    network.blocks[1].register_forward_hook(
        lambda module, inputs, options, output: 1.2 * output, with_kwargs=True
    )


def parametrized(network: CausalTransformer) -> None:
    parametrize.register_parametrization(network.blocks[0].attention.proj, "weight", Halved())


def pruned(network: CausalTransformer) -> None:
    prune.l1_unstructured(network.blocks[0].mlp[2], "weight", amount=0.5)


def own_forward(network: CausalTransformer) -> None:
    linear = network.blocks[0].mlp[2]
    linear.forward = lambda x: F.linear(x, linear.weight) + 0.3


def other_activation(network: CausalTransformer) -> None:
    network.blocks[0].mlp[1] = nn.GELU(approximate="tanh")
    network.blocks[1].mlp[1] = nn.SiLU()


def shared_layer(network: CausalTransformer) -> None:
    mlp = network.blocks[0].mlp
    mlp[2] = nn.Sequential(mlp[2], mlp[0])  # what follows it here is no GELU
    mlp.append(nn.Linear(64, 16))


CHANGES = {
    change.__name__: change
    for change in (
        subclass,
        adapt,
        hook,
        hook_before,
        hook_keywords,
        parametrized,
        pruned,
        own_forward,
        other_activation,
        shared_layer,
    )
}


@pytest.mark.parametrize("batch", [2, 20])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_known_runs_as_it_is(network, change, batch):
    x = torch.randn(batch, 7, 3)
    plain = decoded(network, x, None, 1)
    change(network)
    expected = decoded(network, x, None, 1)
    assert not torch.allclose(expected, plain, rtol=0, atol=1e-3)
    found = decoded(packed(network), x, None, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Parallel(Layer):
    """Somebody else's layer: attention beside a gated MLP, which uses one weight twice."""

    slope: float = 0.1

    def __call__(
        self, model_dim: int, head_dim: int, expansion: int, dropout: float, index: int
    ) -> nn.Module:
        return ParallelLayer(model_dim, head_dim, index, self.slope)


class ParallelLayer(nn.Module):
    def __init__(self, model_dim: int, head_dim: int, index: int, slope: float):
        super().__init__()
        self.slope = slope
        self.norm = nn.RMSNorm(model_dim)
        self.attention = CausalSelfAttention(model_dim, head_dim, layer=index)
        self.up = nn.Linear(model_dim, 3 * model_dim)

    def forward(self, x: Tensor, window: Window) -> Tensor:
        h = self.norm(x)
        hidden = F.leaky_relu(self.up(h), self.slope)
        return x + self.attention(h, window) + F.linear(hidden, self.up.weight.mT)


def foreign_network() -> CausalTransformer:
    network = CausalTransformer(3, 4, 7, 16, 2, head_dim=8, layer=Parallel(slope=0.2))
    return randomized(network, std=0.3)


def test_the_linear_layers_of_a_foreign_layer_are_packed_and_the_rest_runs_as_it_is():
    network, x = foreign_network(), torch.randn(3, 7, 3)
    ready = packed(network)
    block = ready.network.blocks[0]
    assert isinstance(block.up, PackedLinear)
    assert isinstance(block.attention.proj, PackedLinear)
    assert type(block) is ParallelLayer
    assert type(network.blocks[0].up) is nn.Linear
    expected = decoded(network, x, None, 1)
    torch.testing.assert_close(decoded(ready, x, None, 1), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def flow_of(change: Callable[[CausalTransformer], None] | None) -> Flow:
    """A flow over pairs; its transformers are changed, or have somebody else's layers."""
    transforms = [Patchify((1, 7), 1)]
    for seed in range(2):
        layer = {} if change else {"layer": Parallel()}
        network = CausalTransformer(2, 4, 7, 16, 2, head_dim=8, **layer)
        transforms.append(randomized(AutoregressiveTransform(network, ExpScale()), 0.1, seed))
        if change:
            change(network)
    return Flow(transforms, StandardNormal(7, 2)).eval()


OF_A_FLOW = {name: change for name, change in CHANGES.items() if change is not adapt}


@torch.no_grad()
@pytest.mark.parametrize("change", [*OF_A_FLOW.values(), None], ids=[*OF_A_FLOW, "foreign"])
def test_samples_are_of_the_flow_that_has_the_density(change):
    flow, z = flow_of(change), torch.randn(3, 7, 2)
    x = flow.inverse(z, networks=Networks())
    assert not torch.allclose(x.flatten(1), z.flatten(1), rtol=0, atol=1e-2)
    again, _ = flow(x)
    torch.testing.assert_close(again, z, rtol=1e-5, atol=2e-5)


# --- Caches, inputs and the network itself ------------------------------------------------------


def test_transformers_that_decode_in_turn_share_the_memory_of_their_caches(network):
    memory = CacheMemory()
    first, second = packed(network, memory), packed(network, memory)
    x, y = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    expected = in_steps(first, KVCache(2, 7), y)
    in_steps(first, first.new_cache(2), x)
    used, again = first.new_cache(2), second.new_cache(2)
    assert again is used
    assert torch.equal(in_steps(second, again, y), expected)  # nothing of x is left
    assert second.new_cache(3) is not used
    with torch.inference_mode():
        assert first.new_cache(3).keys == [None, None]


def test_transformers_of_other_sizes_have_memory_of_their_own():
    memory = CacheMemory()
    networks = [
        packed(CausalTransformer(3, 4, 7, width, depth, head_dim=head_dim, layer=layer), memory)
        for width, depth, head_dim, layer in (
            (16, 2, 8, Parallel()),
            (16, 3, 8, Parallel()),
            (32, 2, 8, Parallel()),
            (16, 2, 16, Parallel()),
        )
    ]
    caches = [network.new_cache(2) for network in networks]
    assert len(set(map(id, caches))) == len(caches)
    assert [network.new_cache(2) for network in networks] == caches


@torch.no_grad()
def test_a_packed_network_leaves_its_inputs_alone(network):
    inputs = torch.randn(2, 7, 3), torch.randn(2, 16)
    before, table = copy.deepcopy(inputs), network.position_embedding.clone()
    PackedTransformer(network)(*inputs)
    assert all(map(torch.equal, inputs, before))
    assert torch.equal(network.position_embedding, table)


def test_preparing_leaves_the_network_as_it_was(network):
    before, names = copy.deepcopy(network.state_dict()), [str(m) for m in network.modules()]
    types, x = [type(m) for m in network.modules()], torch.randn(2, 7, 3)
    expected = network(x)
    decoded(Networks().of(network), x, None, 1)
    assert [str(module) for module in network.modules()] == names
    assert [type(module) for module in network.modules()] == types
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(network(x), expected)
    network(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_what_drops_activations_in_training_does_so_packed():
    network = randomized(CausalTransformer(2, 3, 5, 16, 1, head_dim=8, dropout=0.5), 0.3)
    ready, x = packed(network), torch.randn(2, 5, 2)
    torch.manual_seed(0)
    expected = network(x).detach()
    torch.manual_seed(0)
    with torch.no_grad():
        found = ready(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert not torch.equal(ready(x), found)


# --- Lower precisions ---------------------------------------------------------------------------

LOWER = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(
            not has_kernels(dtype), reason=f"needs instructions that multiply {name}"
        ),
    )
    for dtype, name in ((torch.bfloat16, "bfloat16: AVX-512"), (torch.float16, "float16"))
]
HALF = pytest.mark.skipif(not has_half_kernels(), reason="needs FBGEMM")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8]
)
def test_what_this_processor_has_kernels_for_is_packed(network, dtype):
    assert has_kernels(torch.float32)
    assert not has_kernels(torch.float64)
    if dtype.is_floating_point:
        linear = network.to(dtype).proj_in
        assert is_packable(linear) == has_kernels(dtype)
        hasten(linear)
        assert (type(linear) is PackedLinear) == has_kernels(dtype)
    else:
        assert not has_kernels(dtype)


@pytest.mark.parametrize("dtype", LOWER)
@pytest.mark.parametrize("batch", [0, 1, 4, 33])
def test_a_network_of_lower_precision_computes_the_same_packed(network, dtype, batch):
    network, x = network.to(dtype), torch.randn(batch, 7, 3)
    eps, expected = torch.finfo(dtype).eps, decoded(network, x, None, 1)
    found = decoded(packed(network), x, None, 1)
    torch.testing.assert_close(found, expected, rtol=10 * eps, atol=10 * eps)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, *LOWER])
def test_a_lowered_layer_multiplies_what_is_rounded(bias, dtype):
    linear, x = nn.Linear(24, 6, bias=bias), torch.randn(5, 24)
    weight, given = linear.weight.to(dtype).double(), x.to(dtype).double()
    expected = given @ weight.T + (linear.bias.to(dtype).double() if bias else 0)
    lower_products(linear, dtype)
    hasten(linear)
    assert (type(linear) is PackedLoweredLinear) == has_kernels(dtype)
    found, eps = linear(x), torch.finfo(dtype).eps
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=eps, atol=eps / 4)
    assert not torch.equal(found, F.linear(x, linear.weight, linear.bias))


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("batch", [0, 1, 4, 33])
def test_a_lowered_network_is_packed_as_a_plain_one(network, window, batch):
    """Products lowered to float32 itself, for which every processor has kernels."""
    x = torch.randn(batch, 7, 3)
    expected = decoded(network, x, None, window)
    lower_products(network.blocks, torch.float32)
    ready = packed(network)
    block, proj_in = ready.network.blocks[0], ready.network.proj_in
    assert ready.takes_rows
    assert type(proj_in) is PackedLinear
    assert type(block.attention.qkv) is PackedLoweredLinear
    assert [type(step) for step in block.mlp] == [ActivatedLoweredLinear, PackedLoweredLinear]
    assert block.add is Tensor.add_
    found = decoded(ready, x, None, window)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", LOWER)
def test_within_an_mlp_lowered_layers_hand_on_what_is_rounded(network, dtype):
    lower_products(network.blocks, dtype)
    ready = packed(network)
    first, second = ready.network.blocks[0].mlp
    x = torch.randn(3, 16)
    assert [first.outputs, second.outputs] == [dtype, torch.float32]
    assert second(first(x)).dtype == torch.float32
    expected = decoded(network, x := torch.randn(3, 7, 3), None, 1)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(decoded(ready, x, None, 1), expected, rtol=10 * eps, atol=10 * eps)


@HALF
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("batch", [0, 1, 4, 33])
def test_a_network_with_rounded_weights_computes_the_same_packed(network, window, batch):
    plain, x = copy.deepcopy(network), torch.randn(batch, 7, 3)
    with torch.no_grad():
        network.blocks[0].mlp[0].weight[0, 0] = 1e6  # more than float16 holds
    round_weights(network.blocks)
    assert float(network.blocks[0].mlp[0].weight[0, 0]) == 65504
    for name, weight in network.named_parameters():
        if "weight" in name and "norm" not in name:
            rounded = weight if "proj_" in name else weight.half().float()
            assert torch.equal(weight, rounded)
    ready = packed(network)
    block = ready.network.blocks[1]
    assert ready.takes_rows
    assert block.add is Tensor.add_
    assert [type(step) for step in block.mlp] == [ActivatedRoundedLinear, PackedRoundedLinear]
    assert type(ready.network.proj_out) is PackedLinear
    expected = decoded(network, x, None, window)
    torch.testing.assert_close(decoded(ready, x, None, window), expected, rtol=1e-5, atol=1e-5)
    assert not batch or not torch.equal(expected, decoded(plain, x, None, window))


@pytest.mark.parametrize("batch", [2, 20])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_known_runs_as_it_is_between_rounded_layers(network, change, batch):
    x = torch.randn(batch, 7, 3)
    change(network)
    expected = decoded(network, x, None, 1)
    for name, gap in (("bfloat16_products", 0.3), ("float16_weights", 0.02)):
        found = decoded(Networks(name).of(network), x, None, 1)
        torch.testing.assert_close(found, expected, rtol=gap, atol=gap)
        assert not torch.equal(found, expected)


def test_a_foreign_layer_that_uses_a_weight_itself_finds_it():
    network, x = foreign_network(), torch.randn(3, 7, 3)
    expected = decoded(network, x, None, 1)
    for name, kind in (("bfloat16_products", LoweredLinear), ("float16_weights", RoundedLinear)):
        ready = Networks(name).of(network)
        assert isinstance(ready.network.blocks[0].up, kind)
        torch.testing.assert_close(decoded(ready, x, None, 1), expected, rtol=0.1, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_packed_norm_rounds_once(dtype):
    norm, x = randomized(nn.RMSNorm(24, 1e-5), 0.3).to(dtype), torch.randn(9, 24).to(dtype)
    hasten(norm)
    assert type(norm) is PackedRootMeanSquare
    found, wide = norm(x), x.double()
    size = (wide.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    expected = wide / size * norm.weight.double()
    assert found.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=2 * eps, atol=eps / 100)
