"""Noise of a flow in the shape of its images: only what moves numbers is undone."""

import pytest
import torch
from einops import rearrange

from tarflow import (
    Alternating,
    AutoregressiveTransform,
    Composition,
    Flow,
    Patchify,
    Raster,
    Reverse,
    StandardNormal,
    TarFlow,
    UniformLevels,
    UnitScale,
    placed,
    placed_states,
    unplaced,
)
from tarflow.flows.transforms import Repatch

from ..models import randomized, tiny_autoregressive, tiny_flow, tough_flow
from ..registry import Shuffled

FLOWS = {
    "alternating": lambda: tiny_flow(ordering=Alternating()),
    "raster": lambda: tiny_flow(ordering=Raster()),
    "shuffled": lambda: tiny_flow(ordering=Shuffled()),
    "unequal patches": lambda: tiny_flow(patch_size=(2, 1, 4), ordering=Shuffled()),
    "not square": lambda: tiny_flow((4, 6), 2),
    "permuted at the end": tough_flow,
    "learned variance": lambda: varied(),
    "nested": lambda: nested(),
}


def varied() -> TarFlow:
    """A flow whose noise has another variance in every dimension."""
    flow = tiny_flow(scale=UnitScale())
    flow.base.variance.copy_(torch.rand(flow.base.shape) + 0.5)
    return flow


def nested() -> Flow:
    """A flow with a composition in its transform."""
    parts = [Patchify((2, 4), 2), Composition([Reverse(), tiny_autoregressive(UnitScale(), 2, 4)])]
    flow = Flow(parts, StandardNormal(2, 4))
    flow.image_shape = (1, 2, 4)
    return flow


@pytest.fixture(params=FLOWS)
def flow(request):
    return FLOWS[request.param]().eval().double()


@pytest.fixture
def z(flow):
    return flow.base.sample(3)


def undone(flow, z):
    """The noise without the networks: the inverse of the same flow whose networks do nothing."""
    for part in flow.modules():
        if isinstance(part, AutoregressiveTransform):
            torch.nn.init.zeros_(part.network.proj_out.weight)
            torch.nn.init.zeros_(part.network.proj_out.bias)
    return flow.inverse(z)


def test_placing_is_the_inverse_of_a_flow_that_only_moves_numbers(flow, z):
    unit = z / flow.base.variance.sqrt() if hasattr(flow.base, "variance") else z
    assert torch.equal(placed(flow, z), undone(flow, unit))


def test_unplaced_undoes_placed(flow, z):
    image = placed(flow, z)
    torch.testing.assert_close(unplaced(flow, image), z, rtol=1e-15, atol=0)
    torch.testing.assert_close(placed(flow, unplaced(flow, image)), image, rtol=1e-15, atol=0)


def test_placed_noise_has_the_shape_of_images_and_variance_one(flow):
    image = placed(flow, flow.base.sample(2000))
    assert image[0].shape == flow.inverse(flow.base.sample(1))[0].shape
    assert (image.var(dim=0) - 1).abs().max() < 0.2


def test_a_plain_flow_by_hand():
    flow = tiny_flow().eval()
    z = flow.base.sample(2)
    tiles = rearrange(z, "b (r s) (c p q) -> b c (r p) (s q)", r=2, p=2, q=2)
    assert torch.equal(placed(flow, z), tiles)


@torch.no_grad()
def test_states_are_those_between_the_transforms(flow):
    z = flow.base.sample(3)
    x = flow.inverse(z)
    expected, state, patches = [], x, None
    for part in flow.transform:
        if isinstance(part, Patchify | Repatch):
            patches = part
        state, _ = part(state, flow.read_context(None, x))
        expected += [state] if isinstance(part, AutoregressiveTransform) else []
    found = placed_states(flow, x)
    assert patches is not None
    assert len(found) == max(len(expected), 1)
    assert all(each.shape == x.shape for each in found)
    torch.testing.assert_close(found[-1], placed(flow, z), rtol=0, atol=1e-10)
    for ours, theirs in zip(found[:-1], expected, strict=False):
        # The same numbers, in other places.
        assert torch.equal(ours.flatten(1).sort().values, theirs.flatten(1).sort().values)


@torch.no_grad()
def test_a_state_by_hand():
    flow = tiny_flow(patch_size=(2, 1, 2)).eval()
    x = torch.randn(3, 2, 4, 4)
    context = flow.read_context(None, x)
    state, _ = flow.transform[1](flow.transform[0](x, context)[0], context)
    by_hand = rearrange(state, "b (r s) (c p q) -> b c (r p) (s q)", r=2, p=2, q=2)
    assert torch.equal(placed_states(flow, x)[0], by_hand)


def test_states_have_gradients_and_a_context():
    flow = tiny_flow(num_classes=3, noise=UniformLevels())
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    context = {"label": [0, 2], "noise_level": [0.1, 0.2]}
    states = placed_states(flow, x, context)
    assert torch.equal(states[-1], placed(flow, flow(x, context)[0]))
    states[0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_fresh_flow_places_its_noise_where_the_data_was():
    flow = TarFlow(4, (2, 1), 2, 2, 1, 8, 8, ordering=Shuffled())
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(placed(flow, flow(x)[0]), x)
    assert randomized(flow).num_dims == 32
