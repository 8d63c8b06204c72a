"""Pruning of neurons by the norms of their weights, against a plain loop."""

from collections import Counter
from statistics import median

import pytest
import torch

from tarflow import GeluMLP, PreNorm, SwiGLU, TarFlow
from tarflow.compression.magnitude import magnitudes
from tests.models import tiny_flow


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


@pytest.mark.parametrize("mlp", [GeluMLP(), SwiGLU()])
def test_neurons_of_small_weights_are_left_out_and_nothing_makes_up_for_them(mlp):
    flow = tiny_flow(num_classes=3, layer=PreNorm(mlp=mlp)).eval()
    networks = [each.network for each in flow.transform if each.num_decoded]
    importance = {}
    for transform, network in enumerate(networks):
        for layer, block in enumerate(network.blocks):
            first, last = (p.detach() for p in block.mlp.parameters() if p.ndim == 2)
            count = last.shape[1]
            for neuron in range(count):
                rows, column = first[neuron::count], last[:, neuron]
                operations = 2 * (rows.numel() + column.numel())
                size = float(rows.norm() * column.norm()) / operations**0.5
                importance[transform, layer, neuron] = size
    threshold = median(importance.values())
    pruned = magnitudes(flow).at(threshold)
    small = [place for place, size in importance.items() if size <= threshold]
    kept = Counter(place[:2] for place in importance.keys() - set(small))
    widths = tuple(tuple(kept[transform, layer] for layer in range(2)) for transform in range(3))
    assert pruned.description.hidden_dims == widths
    assert len(set(kept.values())) > 1
    x, label = torch.randn(4, 2, 4, 4), torch.tensor([0, 1, 2, -1])
    expected = without(flow, small)(x, label)
    torch.testing.assert_close(pruned(x, label), expected, atol=1e-5, rtol=1e-5)
