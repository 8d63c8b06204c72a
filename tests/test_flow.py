"""Densities, scores, samples and errors of flows."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from tarflow import (
    Context,
    ContextError,
    DiagonalNormal,
    ExampleSeeds,
    ExpScale,
    GaussianGuidance,
    LinearGuidance,
    NonFiniteError,
    Reverse,
    SoftClipScale,
    SoftplusScale,
    StandardNormal,
    TarFlow,
    UnitScale,
)

from .models import randomized, tiny_flow

SCALES = [ExpScale(), SoftClipScale(0.5), SoftplusScale(), UnitScale()]


@pytest.fixture
def small() -> TarFlow:
    """A flow over four pixels: small enough for finite differences in every direction."""
    sizes = {"num_transforms": 2, "num_layers": 1, "model_dim": 8, "head_dim": 4}
    return tiny_flow((2, 2), 1, 1, num_classes=3, **sizes).double()


# --- Construction ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_transforms", [1, 2, 3, 4])
def test_noise_is_in_raster_order_and_every_other_transform_reversed(num_transforms):
    flow = TarFlow(4, 2, 1, num_transforms, num_layers=1, model_dim=8, head_dim=8)
    kinds = [transform.num_decoded for transform in flow.transform]
    reverses = [isinstance(transform, Reverse) for transform in flow.transform]
    assert kinds[:4] == [0, 1, 0, 1][: len(kinds)]
    assert sum(kinds) == num_transforms
    assert sum(reverses) % 2 == 0
    x = torch.randn(2, 1, 4, 4)
    z, log_det = flow(x)  # a fresh flow is the identity
    assert torch.equal(z[:, 1], x[:, 0, :2, 2:].flatten(1))
    assert not log_det.any()


def test_an_image_may_be_a_rectangle():
    flow = tiny_flow((4, 6), 2, 3)
    assert flow.image_shape == (3, 4, 6)
    assert flow.num_dims == 72
    assert flow.sample(2).shape == (2, 3, 4, 6)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="patch_size 3 does not divide the image size 4 x 4"):
        tiny_flow(patch_size=3)
    with pytest.raises(ValueError, match="model_dim 16 is not a multiple of head_dim 5"):
        tiny_flow(head_dim=5)


def test_the_volume_preserving_flow_has_a_learned_variance():
    flow = tiny_flow(scale=UnitScale())
    assert type(flow.base) is DiagonalNormal
    assert flow.base.variance.shape == (4, 8)
    assert type(tiny_flow().base) is StandardNormal


# --- Density --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_the_density_of_two_pixels_integrates_to_one(scale):
    flow = tiny_flow((1, 2), 1, 1, num_transforms=2, num_layers=1, scale=scale).double()
    randomized(flow, std=0.1, seed=1)
    if isinstance(scale, UnitScale):
        flow.base.variance.copy_(torch.tensor([[0.5], [2.0]]))
    axis = torch.linspace(-10, 10, 257, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    with torch.no_grad():
        density = flow.log_prob(grid).exp().view(257, 257)
    assert torch.trapezoid(torch.trapezoid(density, axis), axis) == pytest.approx(1, abs=1e-3)


def test_log_prob_is_that_of_the_noise_plus_the_log_det(flow, x, y):
    z, log_det = flow(x, y)
    expected = Normal(0.0, 1.0).log_prob(z).sum(dim=(1, 2)) + log_det
    torch.testing.assert_close(flow.log_prob(x, y), expected, rtol=1e-12, atol=0)


def test_the_volume_preserving_density_includes_the_variance(x):
    flow = tiny_flow(scale=UnitScale()).double()
    flow.base.variance.copy_(torch.rand(4, 8) + 0.5)
    z, log_det = flow(x)
    assert not log_det.any()
    expected = Normal(0.0, flow.base.variance.sqrt()).log_prob(z).sum(dim=(1, 2))
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-12, atol=0)


def test_no_label_is_the_null_class(flow, x):
    expected = flow.log_prob(x, torch.full((4,), -1))
    assert torch.equal(flow.log_prob(x), expected)
    assert torch.equal(flow.log_prob(x, -1), expected)


def test_labels_may_be_given_in_any_way(flow, x):
    expected = flow.log_prob(x, Context(torch.full((4,), 2)))
    for label in (2, torch.tensor(2), torch.full((4,), 2), torch.full((4,), 2).int()):
        assert torch.equal(flow.log_prob(x, label), expected)
    assert not torch.allclose(flow.log_prob(x, 1), expected)


def test_an_empty_batch_has_no_densities(flow):
    x = torch.zeros(0, 2, 4, 4, dtype=torch.float64)
    assert flow.log_prob(x, torch.zeros(0, dtype=torch.long)).shape == (0,)


# --- Derivatives ----------------------------------------------------------------------------


def test_the_score_is_that_of_finite_differences(small):
    x, step = torch.randn(2, 1, 2, 2, dtype=torch.float64), 1e-5
    score = small.score(x, 1)
    for pixel in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[pixel] = step
        shift = shift.view(1, 2, 2)
        difference = small.log_prob(x + shift, 1) - small.log_prob(x - shift, 1)
        expected = (difference / (2 * step)).detach()
        torch.testing.assert_close(score.flatten(1)[:, pixel], expected, rtol=0, atol=1e-7)


def test_the_score_needs_no_gradients_and_leaves_none(small):
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        score = small.score(x)
    assert torch.equal(score, small.score(x))
    assert not score.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in small.parameters())


@pytest.mark.parametrize(
    "guidance", [None, LinearGuidance(1.5, temperature=0.5), GaussianGuidance(1.5)]
)
def test_the_inverse_has_gradients(small, guidance):
    z = torch.randn(2, 4, 1, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 2])

    def inverse(z, *parameters):  # gradcheck changes the flow's own parameters in place
        return small.inverse(z, label, guidance=guidance)

    assert gradcheck(inverse, (z, *small.parameters()), fast_mode=True)


def test_the_inverse_has_the_inverse_jacobian(small):
    z = torch.randn(1, 4, 1, dtype=torch.float64)
    x = small.inverse(z, 1).detach()
    backward = jacobian(lambda z: small.inverse(z, 1), z).view(4, 4)
    forward = jacobian(lambda x: small(x, 1)[0], x).view(4, 4)
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(backward @ forward, identity, rtol=0, atol=1e-10)


# --- Samples --------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_noise_and_data_go_round(flow, x, y, dtype, tolerance):
    flow, x = flow.to(dtype), x.to(dtype)
    z, log_det = flow(x, y)
    restored = flow.inverse(z, y)
    assert z.dtype == log_det.dtype == restored.dtype == flow.log_prob(x, y).dtype == dtype
    assert flow.sample(2).dtype == flow.score(x, y).dtype == dtype
    torch.testing.assert_close(restored, x, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [ExpScale(), UnitScale()])
def test_samples_do_not_depend_on_their_batch(scale):
    flow, y = tiny_flow(num_classes=3, scale=scale), torch.tensor([0, 1, 2, -1, 0, 1])
    draw = {"guidance": LinearGuidance(0.5)}
    together = flow.sample(6, y, source=ExampleSeeds(3, range(6)), **draw)
    for first, last in ((0, 1), (1, 3), (3, 6)):
        seeds = ExampleSeeds(3, range(first, last))
        part = flow.sample(last - first, y[first:last], source=seeds, **draw)
        torch.testing.assert_close(part, together[first:last], rtol=0, atol=1e-5)
    other = flow.sample(6, y, source=ExampleSeeds(4, range(6)), **draw)
    assert not torch.isclose(other, together).flatten(1).all(dim=1).any()


def test_a_generator_makes_samples_reproducible(flow):
    first, again, other = (
        flow.sample(2, 1, source=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_sample_is_the_inverse_of_the_bases(flow):
    z = flow.base.sample(3, ExampleSeeds(0, range(3)))
    expected = flow.inverse(z, 2)
    sampled = flow.sample(3, 2, source=ExampleSeeds(0, range(3)))
    torch.testing.assert_close(sampled, expected.detach(), rtol=0, atol=1e-12)


def test_samples_come_with_their_unguided_log_density(flow):
    options = {"guidance": LinearGuidance(0.5), "source": ExampleSeeds(0, range(3))}
    x, log_prob = flow.sample_and_log_prob(3, 1, **options)
    assert torch.equal(x, flow.sample(3, 1, **options))
    torch.testing.assert_close(log_prob, flow.log_prob(x, 1).detach(), rtol=1e-12, atol=0)


def test_sampling_builds_no_graph(flow):
    x, log_prob = flow.sample_and_log_prob(2, 1)
    assert not flow.sample(2, 1).requires_grad
    assert not x.requires_grad
    assert not log_prob.requires_grad


# --- Errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [3, -2, torch.tensor([0, 1, 2, 3])])
def test_labels_out_of_range_are_refused(flow, x, z, label):
    # Densities wait for no tensor: what they make of one is in tests/test_functional.py.
    calls = (flow.log_prob, flow.score, flow) if isinstance(label, int) else ()
    for call in calls:
        with pytest.raises(ContextError, match=r"knows 0 \.\.\. 2"):
            call(x, label)
    for call in (flow.inverse, flow.decode):
        with pytest.raises(ContextError, match=r"knows 0 \.\.\. 2"):
            call(z, label)
    with pytest.raises(ContextError, match=r"knows 0 \.\.\. 2"):
        flow.sample(4, label)


def test_a_wrong_number_of_labels_is_refused(flow, x):
    with pytest.raises(ContextError, match="4 examples"):
        flow.log_prob(x, torch.tensor([0, 1]))
    with pytest.raises(ContextError, match="8 examples"):
        flow.sample(8, torch.tensor([0, 1]))


def test_labels_that_are_no_integers_are_refused(flow, x):
    with pytest.raises(ContextError, match="integers"):
        flow.log_prob(x, torch.zeros(4))


def test_a_flow_without_classes_takes_no_labels(unconditional, x):
    with pytest.raises(ContextError, match="no classes"):
        unconditional.log_prob(x, torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("index", [1, 3, 5])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_transform_that_went_wrong_is_named(flow, x, z, y, index, value):
    torch.nn.init.constant_(flow.transform[index].network.proj_out.bias, value)
    log_prob = flow.log_prob(x, y)
    assert not log_prob.isfinite().any()
    with pytest.raises(NonFiniteError, match=f"transform {index}") as forward:
        flow.check_finite(log_prob, x, y)
    with pytest.raises(NonFiniteError, match=f"transform {index}") as inverse:
        flow.inverse(z, y)
    assert forward.value.transform == inverse.value.transform == index


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_blames_no_transform(flow, x, z, y, value):
    x[1, 0, 2, 3] = z[1, 2, 3] = value
    log_prob = flow.log_prob(x, y)
    assert log_prob.isfinite().tolist() == [True, False, True, True]
    with pytest.raises(NonFiniteError) as forward:
        flow.check_finite(log_prob, x, y)
    assert forward.value.transform is None
    with pytest.warns(RuntimeWarning, match=r"1 of 4 .* index 1; .* \(the noise is not finite"):
        found = flow.inverse(z, y)
    rows = torch.tensor([0, 2, 3])
    assert found[1].isnan().all()
    torch.testing.assert_close(found[rows], flow.inverse(z[rows], y[rows]))
    with pytest.raises(NonFiniteError, match="the noise is not finite") as inverse:
        flow.inverse(torch.full_like(z, value), y)
    assert inverse.value.transform is None


def test_sampling_reports_what_is_not_finite(flow):
    torch.nn.init.constant_(flow.transform[3].network.proj_out.bias, 1e4)
    with pytest.raises(NonFiniteError, match="transform 3"):
        flow.sample(2, 1)


def test_a_density_too_small_to_represent_is_found(unconditional):
    x = torch.full((1, 2, 4, 4), 1e200, dtype=torch.float64)
    with pytest.raises(NonFiniteError):
        unconditional.check_finite(unconditional.log_prob(x), x)
