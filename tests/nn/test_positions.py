"""Rotary positions, against their equation, in whatever order a sequence is read."""

import copy

import pytest
import torch

from tarflow import (
    ConfigurationError,
    LearnedPositions,
    Raster,
    RotaryGrid,
    RotaryPositions,
    TarFlow,
)
from tarflow.nn.attention import Window
from tarflow.nn.positions import in_a_row, turn
from tarflow.training.acceleration import networks

from .. import equations
from ..models import tiny_flow
from ..registry import Shuffled

SIZES = {"num_transforms": 2, "num_layers": 1, "model_dim": 16, "head_dim": 8}


def flow_of(positions, image_size=(4, 6), **options) -> TarFlow:
    """A flow over patches of 2 rows and 3 columns."""
    return TarFlow(image_size, 2, 1, positions=positions, **(SIZES | options))


def turned(rotation, x):
    """Vectors `length head_dim`, turned."""
    return turn(x[None, None], *rotation.table.chunk(2, dim=-1))[0, 0]


def test_pairs_turn_by_the_position_times_a_falling_frequency():
    x = torch.randn(5, 6).double()
    rotation = RotaryPositions(base=50.0).rotation(in_a_row(5), head_dim=6).double()
    for i in range(5):
        expected = equations.turned(x[i], [i * 50.0 ** (-k / 3) for k in range(3)])
        torch.testing.assert_close(turned(rotation, x)[i], expected, rtol=0, atol=1e-14)


def test_products_depend_on_how_far_positions_are_apart():
    rotation = RotaryPositions().rotation(in_a_row(9), head_dim=8).double()
    q, k = torch.randn(2, 8).double()
    queries, keys = (turned(rotation, x.expand(9, 8)) for x in (q, k))
    products = queries @ keys.mT
    for shift in range(-8, 9):
        diagonal = products.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (products[0, 1] - products[0, 2]).abs() > 1e-3


@pytest.mark.parametrize("ordering", [Raster(), None, Shuffled()])
def test_in_a_grid_a_patch_turns_by_its_row_and_column_in_whatever_order(ordering):
    options = {} if ordering is None else {"ordering": ordering}
    flow, x = flow_of(RotaryGrid(base=30.0), **options).double(), torch.randn(8).double()
    for index, network in enumerate(networks(flow)):
        order = list(flow.description.ordering(index, 6))
        found = turned(network.rotation, x.expand(6, 8))
        for row, site in zip(found, order, strict=True):
            angles = equations.grid_angles(divmod(site, 3), 8, 30.0)
            torch.testing.assert_close(row, equations.turned(x, angles), rtol=0, atol=1e-14)
    one, other = (network.rotation.table for network in networks(flow_of(RotaryGrid())))
    assert torch.equal(one.flip(0), other)  # forwards and backwards
    one, other = (network.rotation.table for network in networks(flow_of(RotaryPositions())))
    assert torch.equal(one, other)


@torch.no_grad()
def test_two_patches_of_an_image_see_each_other_alike_wherever_they_are():
    """A network without learned positions, over a row of an image moved down by one."""
    flow = tiny_flow((6, 4), 2, num_layers=1, ordering=Raster(), positions=RotaryGrid()).double()
    attention, x = networks(flow)[0].blocks[0].attention, torch.randn(2, 2, 16).double()
    cos, sin = networks(flow)[0].rotation.table.chunk(2, dim=-1)

    def attended(row: int):
        rows = slice(2 * row, 2 * row + 2)
        return attention(x, Window(rotation=(cos[rows], sin[rows])))

    torch.testing.assert_close(attended(0), attended(2), rtol=0, atol=1e-14)
    assert not torch.allclose(attended(0), attention(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [RotaryPositions, RotaryGrid])
def test_learned_vectors_are_added_where_asked_for(kind):
    assert "position_embedding" not in str(list(flow_of(kind()).state_dict()))
    flow = flow_of(kind(added=LearnedPositions()))
    assert list(flow.state_dict()) == list(flow_of(LearnedPositions()).state_dict())


@pytest.mark.parametrize("positions", [RotaryPositions(), RotaryGrid(added=LearnedPositions())])
def test_angles_survive_what_happens_to_a_flow(positions):
    flow, x = flow_of(positions), torch.randn(2, 1, 4, 6)
    [first, _] = networks(flow)
    exact = copy.deepcopy(flow).double().transform[1].network.rotation.table
    for changed in (
        flow,
        copy.deepcopy(flow).bfloat16(),
        copy.deepcopy(flow).half().float(),
        copy.deepcopy(flow).to("meta").to_empty(device="cpu"),
    ):
        table = changed.transform[1].network.rotation.table
        assert torch.equal(table, exact.float())
    assert first.rotation.table.dtype == torch.float32
    with torch.device("meta"):
        bare = flow_of(positions)
    assert all(each.is_meta for each in (*bare.parameters(), *bare.buffers()))
    bare = bare.to_empty(device="cpu")
    bare.load_state_dict(flow.state_dict())
    assert torch.equal(bare.log_prob(x), flow.log_prob(x))
    assert not any("rotation" in name for name in flow.state_dict())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match=r"head_dim 6 is not a multiple of 4.*2 axes"):
        flow_of(RotaryGrid(), model_dim=12, head_dim=6)
    with pytest.raises(ConfigurationError, match=r"head_dim 3 is not a multiple of 2.*1 axis"):
        flow_of(RotaryPositions(), model_dim=12, head_dim=3)
    with pytest.raises(ConfigurationError, match=r"base 1.0 of rotary positions must be above"):
        RotaryGrid(base=1.0)
