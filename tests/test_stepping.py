"""Steps as CUDA graphs run them: on a CPU, by functions that are called where a graph would be.

The graphs themselves: tests/test_gpu.py.
"""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tarflow import (
    Context,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
    Networks,
    PrefixConditioner,
    SoftClipScale,
    SplineScale,
    StartToken,
    TarFlow,
    TokenConditioner,
    UnitScale,
)
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.jacobi import Draft
from tarflow.nn import compiled
from tarflow.nn.attention import Fronts
from tarflow.nn.compiled import CompiledNetwork, Graph

from .models import NETWORKS, randomized, tiny_flow

LABEL = torch.tensor([0, 2, -1, 1, 1])


class Recomputed(Graph):
    """Calls the function on the inputs at their addresses, as a graph replays its kernels."""

    made = 0

    def __init__(self, function, inputs, num_moving, pool, stream):
        copied = [each.clone() for each in inputs]
        self.moving, self.fixed = copied[:num_moving], copied[num_moving:]
        self.owner = lambda: None
        with FakeTensorMode(allow_non_fake_inputs=True):
            function(*copied)  # which raises where a number is asked for
        replay = lambda: vars(self).update(outputs=function(*copied))  # noqa: E731
        self.graph = SimpleNamespace(replay=replay)
        type(self).made += 1


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Let networks take a CPU for a device with graphs."""
    monkeypatch.setattr(CompiledNetwork, "has_graphs", True)
    monkeypatch.setattr(compiled, "Graph", Recomputed)
    monkeypatch.setattr(Recomputed, "made", 0)

    def start(self, watch, width):
        latest = self.z.shape[1] - 1 - width
        num_keys = min(watch.most, latest) + width
        return Fronts.at(self.front.clamp(max=latest), width, num_keys)

    monkeypatch.setattr(Draft, "start", start)  # as on such a device, where fronts are not known


def assert_graphs_change_nothing(flow, context, options=DecodeOptions(), batch=5):
    """Decode two batches with the same graphs, and without."""
    networks = Networks(compile=True)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(batch, *flow.base.shape, generator=generator)
        with torch.no_grad():
            expected = flow.decode(z, context, options=options)
            found = flow.decode(z, context, options=options, networks=networks)
        torch.testing.assert_close(found.x, expected.x, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.log_det, expected.log_det, rtol=0, atol=1e-4)
        made = Recomputed.made if seed == 0 else made
    assert Recomputed.made == made > 0


@pytest.mark.parametrize(
    "guidance",
    [
        None,
        LinearGuidance(1.0, temperature=0.7, schedule=LinearSchedule()),
        LinearScaleGuidance(20.0),  # of negative scales
        GaussianGuidance(1.0, depths=None),
    ],
)
@pytest.mark.parametrize("decoder", [None, Jacobi(1), Jacobi(2, 1e-6), Jacobi(9, 1e-6)])
@pytest.mark.parametrize("batch", [1, 5])
def test_every_rule_and_decoder_is_graphed(guidance, decoder, batch):
    flow = tiny_flow(num_classes=3)
    options = DecodeOptions(guidance, **({} if decoder is None else {"decoder": decoder}))
    assert_graphs_change_nothing(flow, LABEL[:batch], options, batch)


@pytest.mark.parametrize("scale", [SoftClipScale(1.0), UnitScale(), SplineScale(3)])
def test_every_scale_is_graphed(scale):
    flow = tiny_flow(num_classes=3, scale=scale)
    assert_graphs_change_nothing(flow, LABEL, DecodeOptions(LinearGuidance(1.0)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_graphed(name):
    flow = tiny_flow(num_classes=3, first=StartToken(), **NETWORKS[name])
    context = Context(LABEL, temperature=torch.tensor([1.0, 0.3, 3.0, 1.0, 0.5]))
    assert_graphs_change_nothing(flow, context, DecodeOptions(LinearGuidance(1.0)))


@pytest.mark.parametrize("decoder", [None, Jacobi(3, 1e-6)])
def test_masks_orders_and_prefixes_are_graphed(decoder):
    conditioners = [TokenConditioner(6, 2), PrefixConditioner(2, 4)]
    sizes = {"num_transforms": 2, "num_layers": 2, "model_dim": 32, "head_dim": 16}
    flow = randomized(TarFlow.for_tokens(6, 3, conditioners=conditioners, **sizes)).eval()
    context = {
        "tokens": torch.randn(4, 6, 2),
        "prefix": torch.randn(4, 2, 4),
        "mask": torch.arange(6) < torch.tensor([[6], [4], [1], [5]]),
        "order": torch.stack([torch.randperm(6) for _ in range(4)]),
    }
    told = {} if decoder is None else {"decoder": decoder}
    options = DecodeOptions(LinearGuidance(1.0), **told)
    assert_graphs_change_nothing(flow, context, options, batch=4)


def test_another_owner_brings_what_stays_the_same():
    flow, networks = tiny_flow(num_classes=3), Networks(compile=True)
    z = torch.randn(5, *flow.base.shape)
    with torch.no_grad():
        found = [flow.decode(z, label, networks=networks).x for label in (LABEL, LABEL.flip(0))]
        expected = [flow.decode(z, label).x for label in (LABEL, LABEL.flip(0))]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-3
