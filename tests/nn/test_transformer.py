"""Transformers, against their equations."""

import pytest
import torch
import torch.nn.functional as F

from tarflow.nn.attention import KVCache, Window
from tarflow.nn.layers import PreNorm
from tarflow.nn.transformer import BidirectionalTransformer, CausalTransformer

from ..models import NETWORKS, randomized, tiny_network


@pytest.fixture
def network() -> CausalTransformer:
    """Five positions, two numbers in and three out, in float64."""
    return tiny_network(2, 3, 5).double()


@pytest.fixture
def x() -> torch.Tensor:
    """Inputs of two examples."""
    return torch.randn(2, 5, 2, dtype=torch.float64)


def test_a_fresh_network_returns_zeros():
    network = CausalTransformer(2, 3, 5, 16, 2, head_dim=8)
    assert torch.equal(network(torch.randn(2, 5, 2)), torch.zeros(2, 5, 3))


def test_a_block_is_pre_norm_attention_then_a_gelu_mlp():
    block, h = randomized(PreNorm()(16, 8, 3, 0.0, 0)).double(), torch.randn(2, 5, 16).double()
    norm, mlp = block.mlp_norm, block.mlp
    h_attended = h + block.attention(
        F.layer_norm(h, (16,), block.attention_norm.weight, block.attention_norm.bias, eps=1e-5)
    )
    normalized = F.layer_norm(h_attended, (16,), norm.weight, norm.bias, eps=1e-5)
    hidden = F.linear(normalized, mlp[0].weight, mlp[0].bias)
    assert hidden.shape[-1] == 48
    activated = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    expected = h_attended + F.linear(activated, mlp[2].weight, mlp[2].bias)
    torch.testing.assert_close(block(h), expected)


def test_the_network_adds_positions_and_condition_between_two_linear_layers(network, x):
    condition = torch.randn(2, 16, dtype=torch.float64)
    h = network.proj_in(x) + network.position_embedding + condition[:, None]
    for block in network.blocks:
        h = block(h)
    torch.testing.assert_close(network(x, condition), network.proj_out(h))


def test_an_output_depends_on_inputs_up_to_its_position(network, x):
    jacobian = torch.autograd.functional.jacobian(lambda row: network(row[None])[0], x[0])
    depends = jacobian.abs().amax(dim=(1, 3)) > 0
    assert torch.equal(depends, torch.ones(5, 5).tril().bool())


def test_an_output_of_a_bidirectional_transformer_depends_on_all_inputs(x):
    network = randomized(BidirectionalTransformer(2, 3, 5, 16, 2, head_dim=8)).double()
    jacobian = torch.autograd.functional.jacobian(lambda row: network(row[None])[0], x[0])
    assert (jacobian.abs().amax(dim=(1, 3)) > 0).all()


def test_full_attention_is_a_softmax_over_all_positions():
    network = randomized(BidirectionalTransformer(2, 3, 5, 16, 1, head_dim=8)).double()
    attention, h = network.blocks[0].attention, torch.randn(2, 5, 16, dtype=torch.float64)
    q, k, v = attention.qkv(h).view(2, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
    attended = torch.softmax(q @ k.mT / 8**0.5, dim=-1) @ v
    expected = attention.proj(attended.transpose(1, 2).reshape(2, 5, 16))
    torch.testing.assert_close(attention(h), expected)


@pytest.mark.parametrize("parts", [{}, *NETWORKS.values()], ids=["plain", *NETWORKS])
@pytest.mark.parametrize("kind", [CausalTransformer, BidirectionalTransformer])
def test_what_layers_hand_on_is_kept_on_request(kind, parts):
    network = randomized(kind(2, 3, 5, 16, 3, head_dim=8, **parts))
    x, condition = torch.randn(2, 5, 2), network.conditioned(torch.randn(2, 16))
    expected = network(x, condition)
    seen, kept = [], []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert torch.equal(network(x, condition, kept=kept), expected)
    assert len(kept) == 3
    assert all(torch.equal(a, b) for a, b in zip(kept, seen, strict=True))
    assert torch.autograd.grad(kept[0].sum(), network.proj_in.weight)[0].abs().sum() > 0


@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_with_a_cache_equal_the_whole_sequence(network, x, window):
    condition, temperature = torch.randn(2, 16).double(), torch.tensor([1.0, 0.5]).double()
    cache = KVCache(num_layers=2, length=5)
    with torch.no_grad():
        parts = [
            network(x[:, i : i + window], condition, Window(i, cache, temperature))
            for i in range(0, 5, window)
        ]
        expected = network(x, condition, Window(temperature=temperature))
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only(x):
    network = randomized(CausalTransformer(2, 3, 5, 16, 2, head_dim=8, dropout=0.5)).double()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
