"""Networks of packed linear layers, against the networks they are made of."""

import copy

import pytest
import torch
from torch import nn

from tarflow.nn.attention import KVCache, Window
from tarflow.nn.packing import PackedLinear, can_pack, pack
from tarflow.nn.transformer import CausalTransformer

from ..models import randomized, tiny_network


@pytest.fixture
def network() -> CausalTransformer:
    """Seven positions, two layers, in float32, with weights that make a difference."""
    return randomized(tiny_network(3, 4, 7), std=0.3)


def decoded(network, x, condition, window: int, temperature=None) -> torch.Tensor:
    """The outputs, some positions at a time."""
    cache = KVCache(2, 7)
    with torch.no_grad():
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
    packed = decoded(pack(network), x, condition, window, temperature)
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 5, 3)])
def test_a_packed_layer_is_linear_with_what_follows(shape, bias):
    linear, x = nn.Linear(3, 6, bias=bias), 3 * torch.randn(shape)
    expected = linear(x).detach()
    torch.testing.assert_close(PackedLinear(linear)(x), expected, rtol=1e-5, atol=1e-6)
    activated = expected * (1 + torch.erf(expected / 2**0.5)) / 2
    torch.testing.assert_close(PackedLinear(linear, "gelu")(x), activated, rtol=1e-5, atol=1e-6)


def test_every_linear_layer_is_packed_and_computes_its_gelu(network):
    packed = pack(network)
    assert sum(isinstance(module, nn.Linear) for module in network.modules()) == 2 + 2 * 4
    assert not any(isinstance(module, (nn.Linear, nn.GELU)) for module in packed.modules())
    layers = [module for module in packed.modules() if isinstance(module, PackedLinear)]
    assert [layer.activation for layer in layers].count("gelu") == 2
    for block in packed.blocks:
        assert block.mlp[0].activation == "gelu"
        assert isinstance(block.mlp[1], nn.Identity)
        assert block.mlp[2].activation == "none"


def test_packing_leaves_the_network_as_it_was(network):
    before, names = copy.deepcopy(network.state_dict()), [str(m) for m in network.modules()]
    x = torch.randn(2, 7, 3)
    expected = network(x)
    decoded(pack(network), x, None, 1)
    assert [str(module) for module in network.modules()] == names
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(network(x), expected)
    network(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_only_float32_is_packed(network, dtype):
    assert not can_pack(network.to(dtype))
