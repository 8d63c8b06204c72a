"""Layers of every kind, against their equations; and decoded in every way."""

import copy

import pytest
import torch
from torch import nn

from tarflow import (
    AdaptiveNorm,
    ConfigurationError,
    LayerNormalization,
    RootMeanSquare,
    SwiGLU,
    TarFlow,
    load,
)
from tarflow.nn.attention import Fronts, KVCache, Window
from tarflow.nn.compiled import CompiledNetwork, Step, take_step
from tarflow.nn.feed_forward import GatedMLP
from tarflow.nn.packing import PackedLinear, PackedTransformer
from tarflow.nn.transformer import CausalTransformer

from .. import equations
from ..models import NETWORKS, randomized, tiny_flow, tiny_network

LENGTH = 6


@pytest.fixture(autouse=True)
def no_gradients():
    """Compare values."""
    with torch.no_grad():
        yield


@pytest.fixture(params=NETWORKS)
def network(request) -> CausalTransformer:
    """A transformer of each kind, with weights that make a difference, in float64."""
    return randomized(tiny_network(3, 4, LENGTH, **NETWORKS[request.param]), std=0.2).double()


# --- Against the equations ----------------------------------------------------------------------


def test_root_mean_square():
    norm, x = randomized(RootMeanSquare()(6), 0.5).double(), torch.randn(4, 6).double()
    expected = torch.stack([equations.root_mean_square(row, norm.weight) for row in x])
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


def test_swiglu_and_its_width():
    mlp, x = SwiGLU()(12, 4, 0.0).double(), torch.randn(2, 3, 12).double()
    rows = [equations.swiglu(row, mlp.up, mlp.down) for row in x.flatten(0, 1)]
    torch.testing.assert_close(mlp(x).flatten(0, 1), torch.stack(rows), rtol=0, atol=1e-12)
    with torch.device("meta"):
        for model_dim in (768, 1280, 2176):
            matrices = [p for p in SwiGLU()(model_dim, 4, 0.0).parameters() if p.ndim == 2]
            count = sum(p.numel() for p in matrices)
            assert abs(count / (8 * model_dim**2) - 1) < 2e-3
            assert matrices[1].shape[1] % 8 == 0


def test_attention_normalizes_queries_and_keys_turns_them_and_is_gated():
    network = randomized(tiny_network(3, 4, LENGTH, **NETWORKS["all parts"]), 0.3).double()
    attention, x = network.blocks[0].attention, torch.randn(2, LENGTH, 16).double()
    angles = [equations.grid_angles((0, i), 8, 10_000.0) for i in range(LENGTH)]
    cos, sin = network.rotation.table.chunk(2, dim=-1)
    for rotation, turns in ((None, None), ((cos, sin), angles)):
        found = attention(x, Window(rotation=rotation))
        expected = torch.stack([equations.attention(attention, row, turns) for row in x])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_an_adaptive_layer_is_scaled_shifted_and_gated_by_the_condition():
    network = randomized(tiny_network(3, 4, LENGTH, layer=AdaptiveNorm()), 0.3).double()
    x, vector = torch.randn(2, LENGTH, 3).double(), torch.randn(2, 16).double()
    h = network.proj_in(x) + network.position_embedding + vector[:, None]
    silu = vector / (1 + torch.exp(-vector))
    rows = iter(network.modulation.linear.weight.split(16))
    shifts = iter(network.modulation.linear.bias.split(16))

    def read():
        return (silu @ next(rows).T + next(shifts))[:, None]

    for block in network.blocks:
        scale, shift, gate, *others = (read() for _ in range(6))
        h = h + gate * block.attention(block.attention_norm(h) * scale + shift)
        scale, shift, gate = others
        h = h + gate * block.mlp(block.mlp_norm(h) * scale + shift)
    found = network(x, network.conditioned(vector))
    torch.testing.assert_close(found, network.proj_out(h), rtol=0, atol=1e-12)


def test_a_new_adaptive_layer_is_the_identity_and_scales_start_at_one():
    network = CausalTransformer(3, 4, LENGTH, 16, 2, head_dim=8, layer=AdaptiveNorm())
    vector, x = torch.randn(2, 16), torch.randn(2, LENGTH, 16)
    own, *read = network.conditioned(vector).split(network.modulation.sizes, dim=-1)
    assert torch.equal(own, vector)
    for block, modulation in zip(network.blocks, read, strict=True):
        assert modulation[0].view(6, 16)[:, 0].tolist() == [1, 0, 0, 1, 0, 0]
        assert torch.equal(block(x, Window(modulation=modulation[:, None])), x)


def test_plain_layers_leave_the_condition_as_it_is():
    network, vector = tiny_network(3, 4, LENGTH), torch.randn(2, 16)
    assert network.conditioned(vector) is vector
    assert network.conditioned(None) is None


def test_the_output_norm_stands_before_the_last_layer():
    network = randomized(tiny_network(3, 4, LENGTH, **NETWORKS["output norm"]), 0.3).double()
    plain, x = copy.deepcopy(network), torch.randn(2, LENGTH, 3).double()
    plain.output_norm, plain.proj_out = None, nn.Identity()
    expected = network.proj_out(network.output_norm(plain(x)))
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)


# --- Every kind, in every way ------------------------------------------------------------------


def test_an_output_depends_on_inputs_up_to_its_position(network):
    x, condition = torch.randn(LENGTH, 3).double(), network.conditioned(torch.randn(1, 16))
    jacobian = torch.func.jacrev(lambda row: network(row[None], condition)[0])(x)
    depends = jacobian.abs().amax(dim=(1, 3)) > 0
    assert torch.equal(depends, torch.ones(LENGTH, LENGTH).tril().bool())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_windows_with_a_cache_and_steps_equal_the_whole_sequence(network, count):
    x, temperature = torch.randn(2, LENGTH, 3).double(), torch.tensor([1.0, 0.5]).double()
    condition = network.conditioned(torch.randn(2, 16))
    expected = network(x, condition, Window(temperature=temperature))
    cache = KVCache(2, LENGTH)
    parts = [
        network(x[:, i : i + count], condition, Window(i, cache, temperature))
        for i in range(0, LENGTH, count)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-12)
    stored = CompiledNetwork(network).new_cache(2)
    steps = [
        take_step(
            network,
            Step(x[:, i : i + 1], torch.tensor([i]), condition, temperature, LENGTH, stored),
        )
        for i in range(LENGTH)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=1e-12)
    own, rows = KVCache(2, LENGTH), torch.arange(2)[:, None]
    for i in range(LENGTH - count + 1):  # one sequence is as far as it can be, one half as far
        fronts = Fronts.at(torch.tensor([i, i // 2]), count, LENGTH)
        inputs, wanted = (each[rows, fronts.positions] for each in (x, expected))
        out = network(inputs, condition, Window(fronts, own, temperature))
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [2, 20])
def test_packed_layers_compute_the_same_with_every_product_packed(network, batch):
    network = network.float()
    ready, x = PackedTransformer(copy.deepcopy(network)), torch.randn(batch, LENGTH, 3)
    assert ready.takes_rows
    modules = [each for each in ready.network.modules() if isinstance(each, nn.Linear)]
    assert all(isinstance(module, PackedLinear) for module in modules)
    vector, cache = torch.randn(batch, 16), ready.new_cache(batch)
    condition = ready.conditioned(vector)
    before = condition.clone()
    steps = [ready(x[:, i : i + 1], condition, Window(i, cache)) for i in range(LENGTH)]
    expected = network(x, network.conditioned(vector))
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ready(x, condition), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(condition, before)


def test_a_gated_mlp_drops_outputs_in_training_only():
    mlp, x = GatedMLP(8, 16, dropout=0.5), torch.randn(3, 8)
    assert not torch.equal(mlp(x), mlp(x))
    mlp.eval()
    assert torch.equal(mlp(x), mlp(x))


# --- Descriptions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_keeps_every_part(tmp_path, name):
    flow = tiny_flow(num_transforms=2, num_layers=1, num_classes=3, **NETWORKS[name]).eval()
    flow.save_pretrained(tmp_path)
    loaded, x, y = load(tmp_path), torch.randn(2, 2, 4, 4), torch.tensor([0, -1])
    assert loaded.description == flow.description
    assert torch.equal(loaded.log_prob(x, y), flow.log_prob(x, y))


PLAIN = (
    *("position_embedding", "proj_in.weight", "proj_in.bias"),
    *(f"blocks.0.attention_norm.{name}" for name in ("weight", "bias")),
    *(f"blocks.0.attention.{name}" for name in ("qkv.weight", "qkv.bias")),
    *(f"blocks.0.attention.{name}" for name in ("proj.weight", "proj.bias")),
    *(f"blocks.0.mlp_norm.{name}" for name in ("weight", "bias")),
    *("blocks.0.mlp.0.weight", "blocks.0.mlp.0.bias"),
    *("blocks.0.mlp.2.weight", "blocks.0.mlp.2.bias", "proj_out.weight", "proj_out.bias"),
)


def test_the_plain_flow_is_what_it_was():
    """Names, and the order of random draws, by sums taken before layers had parts."""
    torch.manual_seed(0)
    flow = TarFlow(4, 2, 1, num_transforms=2, num_layers=1, model_dim=16, head_dim=8)
    found = [name.split("network.")[1] for name in flow.state_dict()]
    assert tuple(found) == 2 * PLAIN
    total = sum(value.double().sum() for value in flow.state_dict().values())
    assert float(total) == pytest.approx(58.07961187367982, abs=1e-9)
    loss = randomized(flow, 0.1).double().log_prob(torch.ones(1, 1, 4, 4).double())
    assert float(loss) == pytest.approx(-25.57506060138204, abs=1e-9)


def test_an_eps_that_is_not_positive_is_refused():
    with pytest.raises(ConfigurationError, match=r"eps 0.0 of a norm is not positive"):
        LayerNormalization(eps=0.0)
