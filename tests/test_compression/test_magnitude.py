"""Pruning of neurons by the norms of their weights, against a plain loop."""

import pytest
import torch

from tarflow import PreNorm, SwiGLU, TarFlow
from tarflow.compression.magnitude import magnitudes
from tests.models import tiny_flow

THRESHOLD = 1.2


def without(flow: TarFlow, neurons: list[tuple[int, int, int]]) -> TarFlow:
    """A flow in which neurons, of a transform and a layer, put out nothing."""
    changed = flow.remade()
    changed.load_state_dict(flow.state_dict())
    networks = [each.network for each in changed.transform if each.num_decoded]
    with torch.no_grad():
        for transform, layer, neuron in neurons:
            mlp = networks[transform].blocks[layer].mlp
            (mlp[2] if hasattr(mlp, "2") else mlp.down).weight[:, neuron] = 0
    return changed.eval()


@pytest.mark.parametrize("gated", [False, True])
def test_neurons_of_small_weights_are_left_out_and_nothing_makes_up_for_them(gated):
    flow = tiny_flow(num_classes=3, **({"layer": PreNorm(mlp=SwiGLU())} if gated else {})).eval()
    networks = [each.network for each in flow.transform if each.num_decoded]
    small, widths = [], []
    for transform, network in enumerate(networks):
        widths.append([])
        for layer, block in enumerate(network.blocks):
            first, last = (p for p in block.mlp.parameters() if p.ndim == 2)
            count = last.shape[1]
            kept = 0
            for neuron in range(count):
                norm = first[neuron::count].norm() * last[:, neuron].norm()
                if norm > THRESHOLD:
                    kept += 1
                else:
                    small.append((transform, layer, neuron))
            widths[-1].append(kept)
    pruned = magnitudes(flow).at(THRESHOLD)
    assert pruned.description.hidden_dims == tuple(map(tuple, widths))
    assert len({width for each in widths for width in each}) > 1
    x, label = torch.randn(4, 2, 4, 4), torch.tensor([0, 1, 2, -1])
    expected = without(flow, small)(x, label)
    torch.testing.assert_close(pruned(x, label), expected, atol=1e-5, rtol=1e-5)
