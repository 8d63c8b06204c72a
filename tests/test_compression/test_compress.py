"""Flows of fewer neurons and heads: the same function where nothing is lost, and always flows."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tarflow
from tarflow import (
    AutoregressiveTransform,
    ConfigurationError,
    Context,
    DataError,
    Flow,
    Layer,
    PreNorm,
    StandardNormal,
    SwiGLU,
    TarFlow,
    UniformLevels,
)
from tarflow.compression import Cost, Heads, Neurons, Skeletons, compress, measure
from tarflow.compression.units import groups_of
from tarflow.nn.feed_forward import MLP
from tests.models import MODERN, NETWORKS, randomized, tiny_flow

KINDS = {"plain": {}, **NETWORKS, "shared": {"networks": (0, 1, 1)}}
WIDE = {"model_dim": 32}  # four heads
LABELS = torch.arange(48) % 3


@dataclass(frozen=True)
class OwnLayer(Layer):
    """A kind of layer that has no widths but the model's."""

    def __call__(self, model_dim, head_dim, expansion, dropout, index):
        return nn.Linear(model_dim, model_dim)


def make(**options) -> TarFlow:
    return tiny_flow(num_classes=3, **options).double().eval()


def images(count: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 4, 4, generator=generator, dtype=torch.float64)


def activations_of(flow: TarFlow, **options):
    return measure(flow, [(images(), Context(LABELS))], **options)


def networks_of(flow: Flow) -> list:
    parts = [each for each in flow.transform if isinstance(each, AutoregressiveTransform)]
    return [each.network for each in dict.fromkeys(parts)]


@torch.no_grad()
def make_redundant(flow: TarFlow) -> None:
    """Let one neuron of every layer repeat another and one be constant, and a head repeat one."""
    for network in networks_of(flow):
        for block in network.blocks:
            for units, (kept, repeated) in ((Neurons(), (3, 8)), (Heads(), (2, 0))):
                group = units.of(block, network.length)
                for maker, stretches in group.makers:
                    for tensor in maker.parameters():
                        rows = tensor.unflatten(0, (stretches, group.count, group.size))
                        rows[:, repeated] = rows[:, kept]
            for maker, stretches in Neurons().of(block, network.length).makers:
                maker.weight.unflatten(0, (stretches, -1))[:, 5] = 0


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_what_the_others_tell_is_left_out_at_no_cost(options):
    flow = make(**WIDE, **options)
    make_redundant(flow)
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    small = compress(flow, activations_of(flow), 0.0)
    cost, less = Cost.of(flow), Cost.of(small)
    assert less.heads == tuple((3, 3) for _ in cost.heads)
    assert less.neurons == tuple(tuple(n - 2 for n in each) for each in cost.neurons)
    x = images(6, seed=1)
    for labels in (LABELS[:6], None):
        expected, found = (each.log_prob(x, labels) for each in (flow, small))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for name, tensor in flow.state_dict().items():
        assert torch.equal(tensor, before[name])


@torch.no_grad()
def test_neurons_that_depend_on_each_other_are_left_out():
    flow = make()
    for network in networks_of(flow):
        first = network.blocks[0].mlp[0]
        weight, bias = first.weight, first.bias
        weight[2], bias[2] = weight[0] + weight[1], bias[0] + bias[1]
        for n in range(3):  # gelu(a) - gelu(-a) = a, and the third a is the sum of the others
            weight[3 + n], bias[3 + n] = -weight[n], -bias[n]
    small = compress(flow, activations_of(flow), 0.0)
    assert Cost.of(small).neurons == 3 * ((63, 64),)
    x = images(6, seed=1)
    torch.testing.assert_close(small.log_prob(x), flow.log_prob(x), rtol=0, atol=1e-10)


def halved(flow: TarFlow, **options) -> TarFlow:
    """A flow that has lost about half of its units."""
    skeletons = Skeletons.of(flow, activations_of(flow), **options)
    return skeletons.at(float(np.median(skeletons.thresholds)))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_smaller_flow_is_a_flow(options, tmp_path):
    flow = make(**options)
    small = halved(flow)
    assert Cost.of(small).mlp_operations < 0.7 * Cost.of(flow).mlp_operations
    x, labels = images(3, seed=1), LABELS[:3]
    z, log_det = small(x, labels)
    torch.testing.assert_close(small.inverse(z, labels), x, rtol=0, atol=1e-8)
    one = torch.autograd.functional.jacobian(lambda x: small(x, labels[:1])[0], x[:1])
    expected = torch.linalg.slogdet(one.reshape(x[0].numel(), -1)).logabsdet
    torch.testing.assert_close(log_det[0], expected)
    small.save_pretrained(tmp_path)
    loaded = tarflow.load(tmp_path)
    assert loaded.description == small.description
    assert torch.equal(loaded.log_prob(x, labels), small.log_prob(x, labels))


def test_the_smaller_flow_decodes_in_every_way():
    small = halved(make(layer=MODERN)).float()
    z = torch.randn(3, 4, 8)
    exact = small.double().inverse(z.double(), LABELS[:3]).float()
    small.float()
    for options in ({}, {"decoder": tarflow.Jacobi(2, 1e-6)}, {"dtype": torch.bfloat16}):
        found = small.inverse(z, LABELS[:3], guidance=None, **options)
        torch.testing.assert_close(found, exact, rtol=0, atol=0.1 if "dtype" in options else 1e-4)


def test_what_reads_units_makes_up_for_the_others_as_well_as_it_can():
    flow, seen = make(layer=PreNorm(mlp=SwiGLU())), []
    block = networks_of(flow)[1].blocks[1]
    hook = block.mlp.down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for labels in (LABELS, None):  # the null label counts as much
        flow.log_prob(images(), labels)
    hook.remove()
    hidden = torch.cat(seen).flatten(0, 1).detach()
    small = halved(flow, parts=(Neurons(),))
    new = networks_of(small)[1].blocks[1]
    rows = {tuple(row.tolist()): n for n, row in enumerate(block.mlp.up.weight.chunk(2)[0])}
    kept = [rows[tuple(row.tolist())] for row in new.mlp.up.weight.chunk(2)[0]]
    assert 1 <= len(kept) < hidden.shape[1]
    known = torch.cat([torch.ones(len(hidden), 1), hidden[:, kept]], dim=1)
    told = torch.linalg.lstsq(known, hidden @ block.mlp.down.weight.T + block.mlp.down.bias)
    torch.testing.assert_close(new.mlp.down.bias, told.solution[0], rtol=0, atol=1e-8)
    torch.testing.assert_close(new.mlp.down.weight, told.solution[1:].T, rtol=0, atol=1e-8)
    for name, tensor in block.attention.state_dict().items():
        assert torch.equal(new.attention.state_dict()[name], tensor)


def test_sums_do_not_depend_on_batches_and_gradients_are_those_of_the_loss():
    flow = make()
    whole = activations_of(flow)
    pieces = [(images()[i : i + 16], Context(LABELS[i : i + 16])) for i in (0, 16, 32)]
    split = measure(flow.requires_grad_(False), pieces)
    flow.requires_grad_(True)
    x = images()
    outputs = {}
    for place, group in groups_of(flow).items():
        one, other = (each[place] for each in (whole, split))
        torch.testing.assert_close(one.factor.T @ one.factor, other.factor.T @ other.factor)
        torch.testing.assert_close(one.fisher, other.fisher)
        assert one.num_tokens == other.num_tokens == 2 * 48 * 3
        outputs[place] = torch.zeros(48, 3, 16, dtype=torch.float64, requires_grad=True)
        hook = lambda _, inputs, y, place=place: y + outputs[place]  # noqa: E731
        group.reader.register_forward_hook(hook)
    fisher = dict.fromkeys(outputs, 0)
    for labels in (LABELS, None):
        gradients = torch.autograd.grad(-flow.log_prob(x, labels).sum(), [*outputs.values()])
        for place, gradient in zip(outputs, gradients, strict=True):
            for example in gradient:
                fisher[place] = fisher[place] + sum(torch.outer(g, g) for g in example)
    for place, total in fisher.items():
        torch.testing.assert_close(whole[place].fisher, total / (2 * 48 * 3))


def test_parts_may_be_compressed_alone_and_again():
    flow = make(**WIDE)
    one = halved(flow, parts=(Neurons(),))
    assert one.description.num_heads is None
    assert Cost.of(one).heads == Cost.of(flow).heads
    two = halved(one, parts=(Heads(),))
    assert Cost.of(two).neurons == Cost.of(one).neurons
    assert sum(map(sum, Cost.of(two).heads)) < sum(map(sum, Cost.of(one).heads))
    three = halved(two)
    x = images(3, seed=1)
    torch.testing.assert_close(three.inverse(three(x)[0]), x, rtol=0, atol=1e-8)


def test_widths_may_be_multiples():
    flow = make(**WIDE)
    activations = activations_of(flow)
    skeletons = Skeletons.of(flow, activations, multiple=16)
    exact, rounded = (each.at(2e-3) for each in (Skeletons.of(flow, activations), skeletons))
    pairs = zip(sum(Cost.of(exact).neurons, ()), sum(Cost.of(rounded).neurons, ()), strict=True)
    assert all(b % 16 == 0 and a <= b < a + 16 for a, b in pairs)
    pairs = zip(sum(Cost.of(exact).heads, ()), sum(Cost.of(rounded).heads, ()), strict=True)
    assert all(b % 2 == 0 and a <= b < a + 2 for a, b in pairs)  # heads of 8 numbers
    assert Cost.of(skeletons.at(1e9)).neurons == 3 * ((16, 16),)
    with pytest.raises(ConfigurationError, match="multiple 0 must be at least 1"):
        Skeletons.of(flow, activations, multiple=0)


def test_one_neuron_and_one_head_stay():
    flow = make(**WIDE)
    least = compress(flow, activations_of(flow), 1e9)
    assert Cost.of(least).neurons == Cost.of(least).heads == 3 * ((1, 1),)
    x = images(3)
    torch.testing.assert_close(least.inverse(least(x)[0]), x, rtol=0, atol=1e-8)


def test_costs_are_those_of_the_matrices():
    flow = TarFlow(4, 2, 1, 2, 1, 16, 8, num_heads=((1,), (3,)), hidden_dims=((5,), (7,)))
    cost = Cost.of(flow)
    mlp = [2 * 3 * 2 * 16 * hidden for hidden in (5, 7)]
    attention = [2 * 3 * 4 * 16 * 8 * heads + 4 * 8 * heads * 6 for heads in (1, 3)]
    ends = 2 * (2 * 3 * (4 * 16 + 16 * 8))
    assert cost.mlp_operations == sum(mlp)
    assert cost.operations == sum(mlp) + sum(attention) + ends
    assert cost.cache_bytes == 2 * 4 * 8 * (1 + 3) * 4
    assert (cost.neurons, cost.heads) == (((5,), (7,)), ((1,), (3,)))
    assert cost.parameters == sum(p.numel() for p in flow.parameters())


def test_flows_of_many_noise_levels_and_other_sizes():
    options = {"noise": UniformLevels(0.1, 0.5), "num_layers": (1, 2, 1), "model_dim": (16, 32, 8)}
    flow = make(**options)
    levels = torch.linspace(0.1, 0.5, 48, dtype=torch.float64)
    context = Context(LABELS, noise_level=levels)
    small = compress(flow, measure(flow, [(images(), context)]), 1e-3)
    assert Cost.of(small).mlp_operations < Cost.of(flow).mlp_operations
    assert [len(each) for each in small.description.hidden_dims] == [1, 2, 1]
    z = small(images(), context)[0]
    torch.testing.assert_close(small.inverse(z, context), images(), rtol=0, atol=1e-8)


def test_only_a_flow_with_widths_of_its_own_writes_them(tmp_path):
    tiny_flow().save_pretrained(tmp_path / "plain")
    content = json.loads((tmp_path / "plain/config.json").read_text())["flow"]
    assert not {"num_heads", "hidden_dims"} & content.keys()
    halved(make(), parts=(Neurons(),)).save_pretrained(tmp_path / "small")
    content = json.loads((tmp_path / "small/config.json").read_text())["flow"]
    assert [len(each) for each in content["hidden_dims"]] == [2, 2, 2]
    assert "num_heads" not in content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": ()}, r"num_heads \(\): give for each of the 3 transforms a list"),
        ({"hidden_dims": ((8, 8), (8, 8))}, r"layers, of which there are \[2, 2, 2\]"),
        ({"hidden_dims": 3 * ((8,),)}, r"layers, of which there are \[2, 2, 2\]"),
        ({"hidden_dims": ((8, 8), (8, 8), (8, 0))}, "one of hidden_dims, 0 must be at least 1"),
        ({"num_heads": 3 * ((1, 1),), "layer": OwnLayer()}, "num_heads is for layers"),
        (
            {"networks": (0, 1, 1), "num_heads": ((1, 1), (1, 1), (1, 2))},
            "transforms 1 and 2 cannot share a network, for their num_heads differ",
        ),
    ],
)
def test_wrong_widths_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_flow(**options)


def test_what_cannot_be_compressed_is_told():
    flow = make()
    activations = activations_of(flow)
    with pytest.raises(ConfigurationError, match=r"threshold -0\.1 must not be negative"):
        compress(flow, activations, -0.1)
    with pytest.raises(ConfigurationError, match=r"parts \(\): give"):
        compress(flow, activations, 0.1, parts=())
    with pytest.raises(ConfigurationError, match="activations are not those of the neurons in"):
        compress(make(expansion=2), activations, 0.1)
    with pytest.raises(DataError, match="6 tokens tell nothing of a layer of 64 numbers"):
        measure(flow, [(images(1), Context(LABELS[:1]))])
    with pytest.raises(ConfigurationError, match="a Flow has no widths of its own"):
        measure(Flow([*flow.transform], StandardNormal(4, 8)), [])
    with pytest.raises(ConfigurationError, match="cannot compress a Linear"):
        measure(tiny_flow(layer=OwnLayer()), [])


def test_other_modules_than_those_of_layers_are_told():
    flow = make()
    block = networks_of(flow)[0].blocks[0]

    class OwnMLP(MLP):
        def forward(self, x):
            return F.relu(x)

    block.mlp = randomized(OwnMLP(16, 8))
    with pytest.raises(ConfigurationError, match="cannot compress a OwnMLP: only an MLP"):
        measure(flow, [])
    measure_heads = measure(flow, [(images(), Context(LABELS))], parts=(Heads(),))
    assert {place.units for place in measure_heads} == {Heads()}
