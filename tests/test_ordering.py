"""Orderings: every transform reads the positions in the order it is told."""

import pytest
import torch

from tarflow import Alternating, ConfigurationError, Permute, Raster, Reverse, TarFlow
from tarflow.flows.reordering import rearrangement
from tarflow.flows.transforms import Repatch

from .models import randomized, tiny_flow
from .registry import Shuffled


def kinds(flow: TarFlow) -> list[str]:
    return [type(each).__name__ for each in flow.transform]


def test_alternating_reverses_every_second_transform_and_ends_in_raster_order():
    autoregressive = "AutoregressiveTransform"
    for count in (1, 2, 3, 4):
        names = kinds(tiny_flow(num_transforms=count))
        assert names[0] == "Patchify"
        assert names.count("Reverse") == count // 2 * 2
        assert names.count(autoregressive) == count
    assert kinds(tiny_flow(ordering=Raster())) == ["Patchify", *[autoregressive] * 3]


def test_rearrangements_are_as_simple_as_can_be():
    assert rearrangement([0, 1, 2]) is None
    assert isinstance(rearrangement([2, 1, 0]), Reverse)
    assert isinstance(rearrangement([1, 2, 0]), Permute)
    assert [list(Alternating()(index, 3)) for index in (0, 1)] == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize("ordering", [Alternating(), Raster(), Shuffled()])
def test_a_transform_at_a_position_sees_what_its_order_puts_before(ordering):
    flow = randomized(TarFlow(4, 2, 1, 1, 1, 8, 8, ordering=ordering), 0.3).double()
    order = list(ordering(0, 4))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], x)[0, :, :, 0, 0]
    rows, columns = jacobian.shape[0], 4
    patches = jacobian.view(rows, 4, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(rows, 4, 16)
    depends = patches.abs().amax(dim=2) > 0
    for place, position in enumerate(order):
        seen = [column for column in range(columns) if depends[position, column]]
        assert sorted(seen) == sorted(order[: place + 1])


def test_patches_are_cut_anew_where_their_size_changes():
    flow = tiny_flow(8, patch_size=(4, 2, 2), num_channels=1)
    assert sum(isinstance(each, Repatch) for each in flow.transform) == 1
    assert flow.base.shape == (16, 4)
    assert tiny_flow(8, patch_size=(4, 4, 4), num_channels=1).state_dict().keys() == (
        tiny_flow(8, patch_size=4, num_channels=1).state_dict().keys()
    )


@pytest.mark.parametrize(
    "name", ["patch_size", "num_layers", "model_dim", "head_dim", "expansion"]
)
def test_a_wrong_number_of_values_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name}.*one for each of the 3 transforms"):
        tiny_flow(**{name: (1, 1)})
    with pytest.raises(ConfigurationError, match=f"one of {name}"):
        tiny_flow(**{name: (1, 1, -1)})
