"""Packed networks, against the networks they are made of."""

import copy

import pytest
import torch
from torch import nn

from tarflow.nn.attention import KVCache, Window
from tarflow.nn.packing import FEW_ROWS, CacheMemory, PackedLinear, PackedTransformer, can_pack
from tarflow.nn.transformer import CausalTransformer

from ..models import randomized, tiny_network


@pytest.fixture
def network() -> CausalTransformer:
    """Seven positions, two layers, in float32, with weights that make a difference."""
    return randomized(tiny_network(3, 4, 7), std=0.3)


def decoded(network, x, condition, window: int, temperature=None) -> torch.Tensor:
    """The outputs, some positions at a time."""
    return in_steps(network, KVCache(2, 7), x, condition, window, temperature)


@torch.no_grad()
def in_steps(network, cache, x, condition=None, window=1, temperature=None) -> torch.Tensor:
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
    assert can_pack(network)
    x, condition, temperature = torch.randn(batch, 7, 3), None, None
    if conditional:
        condition, temperature = torch.randn(batch, 16), torch.rand(batch) + 0.5
    expected = decoded(network, x, condition, window, temperature)
    packed = decoded(PackedTransformer(network), x, condition, window, temperature)
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, FEW_ROWS, FEW_ROWS + 1])
def test_a_packed_layer_is_linear_with_what_follows(rows, bias):
    linear, x = nn.Linear(3, 6, bias=bias), 3 * torch.randn(rows, 3)
    packed, expected = PackedLinear(linear), linear(x).detach()
    torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-6)
    activated = expected * (1 + torch.erf(expected / 2**0.5)) / 2
    torch.testing.assert_close(packed.with_gelu(x), activated, rtol=1e-5, atol=1e-6)


def test_transformers_that_decode_in_turn_share_the_memory_of_their_caches(network):
    memory = CacheMemory()
    first, second = PackedTransformer(network, memory), PackedTransformer(network, memory)
    x, y = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    expected = in_steps(first, KVCache(2, 7), y)
    in_steps(first, first.new_cache(2), x)
    used, again = first.new_cache(2), second.new_cache(2)
    assert again is used
    assert torch.equal(in_steps(second, again, y), expected)  # nothing of x is left
    assert second.new_cache(3) is not used
    with torch.inference_mode():
        assert first.new_cache(3).keys == [None, None]


@torch.no_grad()
def test_a_packed_network_leaves_its_inputs_alone(network):
    inputs = torch.randn(2, 7, 3), torch.randn(2, 16)
    before, table = copy.deepcopy(inputs), network.position_embedding.clone()
    PackedTransformer(network)(*inputs)
    assert all(map(torch.equal, inputs, before))
    assert torch.equal(network.position_embedding, table)


def test_packing_leaves_the_network_as_it_was(network):
    before, names = copy.deepcopy(network.state_dict()), [str(m) for m in network.modules()]
    x = torch.randn(2, 7, 3)
    expected = network(x)
    decoded(PackedTransformer(network), x, None, 1)
    assert [str(module) for module in network.modules()] == names
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(network(x), expected)
    network(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_only_float32_is_packed(network, dtype):
    assert not can_pack(network.to(dtype))


def test_what_drops_activations_is_not_packed():
    network = CausalTransformer(2, 3, 5, 16, 1, head_dim=8, dropout=0.5)
    assert not can_pack(network)
    assert can_pack(network.eval())
