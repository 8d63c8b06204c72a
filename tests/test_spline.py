"""Splines behind affine maps."""

import pytest
import torch

from tarflow import (
    ConfigurationError,
    GaussianGuidance,
    LinearGuidance,
    LinearScaleGuidance,
    SplineScale,
)
from tarflow.flows.spline import BOUND, Spline, SplineMap

from .models import tiny_flow

EDGES = [-1e9, -BOUND, -1e-30, 0.0, 1e-30, BOUND, 1e9]
"""Numbers where something may go wrong."""


def numbers(std: float, num_bins: int = 5) -> torch.Tensor:
    """Raw numbers of splines, of 2 x 40 positions of three dimensions."""
    return std * torch.randn(2, 40, 3, 3 * num_bins - 1, dtype=torch.float64)


@pytest.mark.parametrize("std", [0.0, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("num_bins", [2, 8])
def test_an_inverse_is_one_and_slopes_are_those_of_autograd(std, num_bins):
    spline = Spline(numbers(std, num_bins))
    u = (6 * torch.rand(2, 40, 3, dtype=torch.float64) - 3).mul(2).requires_grad_()
    value, log_slope = spline.forward(u)
    [slope] = torch.autograd.grad(value.sum(), u)
    torch.testing.assert_close(log_slope.exp(), slope, rtol=1e-8, atol=1e-10)
    assert (slope > 0).all()
    back = spline.forward(spline.inverse(u.detach()))[0]  # where slopes are 0.001, that is stable
    torch.testing.assert_close(back, u.detach(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("std", [0.0, 3.0, 100.0])
def test_splines_rise_without_jumps_and_change_nothing_outside(std):
    spline = Spline(numbers(std)[:1, :1].expand(1, 4001, 3, -1))
    u = torch.linspace(-6, 6, 4001, dtype=torch.float64)[None, :, None].expand(1, -1, 3)
    value, log_slope = spline.forward(u)
    assert (value.diff(dim=1) > 0).all()
    outside = u.abs() >= BOUND
    assert torch.equal(value[outside], u[outside])
    assert not log_slope[outside].any()
    near = value.diff(dim=1).abs() / u.diff(dim=1)
    largest = log_slope.exp().amax() + 1e-9
    assert (near <= 1.2 * largest + 1).all()


def test_edges_are_exact_and_what_is_not_finite_stays_apart():
    spline = Spline(numbers(2.0)[:1, :1].expand(1, 9, 3, -1))
    u = torch.tensor([*EDGES, torch.nan, torch.inf], dtype=torch.float64)[None, :, None]
    u = u.expand(1, 9, 3).clone().requires_grad_()
    value, log_slope = spline.forward(u)
    assert torch.equal(value[:, [0, 1, 5, 6]], u[:, [0, 1, 5, 6]])
    assert value[:, 7].isnan().all()
    assert value[:, 8].isinf().all()
    assert log_slope[:, :7].isfinite().all()
    torch.testing.assert_close(spline.inverse(value)[:, :7], u[:, :7], rtol=0, atol=1e-10)
    [gradient] = torch.autograd.grad(value[:, :7].sum(), u)
    assert gradient[:, :7].isfinite().all()


def test_a_conditional_need_not_be_normal():
    scale, generator = SplineScale(8), torch.Generator().manual_seed(0)
    raw = torch.zeros(1, 1, 25, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4000, generator=generator).double()
    x = (0.3 * x + (2 * torch.arange(4000).remainder(2) - 1)).view(-1, 1, 1)  # two modes
    optimizer = torch.optim.Adam([raw], lr=0.05)
    losses = []
    for _ in range(150):
        affine = scale.affine(raw.expand(len(x), 1, -1))
        z = affine.to_noise(x)
        nats = 0.5 * z.square().sum(dim=(1, 2)) + 0.919 - affine.log_det(x)
        losses.append(nats.mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    # Of a normal density it is 1.46, and the entropy of the truth is 0.90.
    assert 1.4 < losses[0] < 1.6
    assert losses[-1] < 0.95


def test_guidance_moves_scale_and_shift_and_leaves_the_spline():
    conditional, null = (SplineScale(4).affine(torch.randn(2, 3, 26)) for _ in range(2))
    weight = torch.full((3, 1), 0.5)
    for rule in (LinearGuidance(0.5), GaussianGuidance(0.5)):
        guided = rule(conditional, null, weight)
        assert isinstance(guided, SplineMap)
        assert torch.equal(guided.curve, conditional.curve)
        assert not torch.equal(guided.shift, conditional.shift)
    with pytest.raises(ConfigurationError, match="on_scale=False, or LinearGuidance"):
        LinearScaleGuidance(0.5)(conditional, null, weight)
    guided = LinearScaleGuidance(0.5, on_scale=False)(conditional, null, weight)
    assert torch.equal(guided.log_scale, conditional.log_scale)


def test_gradients_are_those_of_finite_differences():
    raw = torch.randn(1, 4, 2, 8, dtype=torch.float64, requires_grad=True)
    u = torch.linspace(-4.7, 4.7, 8, dtype=torch.float64).view(1, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, raw: Spline(raw).forward(u), (u, raw))
    assert torch.autograd.gradcheck(lambda u, raw: Spline(raw).inverse(u), (u, raw))
    assert torch.autograd.gradgradcheck(lambda u, raw: Spline(raw).forward(u), (u, raw))


def test_gradients_of_examples_by_vmap_are_those_of_autograd():
    flow = tiny_flow(num_classes=3, scale=SplineScale(4)).double()
    x, label = torch.randn(3, 2, 4, 4).double().requires_grad_(), torch.tensor([0, 1, -1])

    def density(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return flow.log_prob(x[None], label[None])[0]

    found = torch.func.vmap(torch.func.grad(density))(x.detach(), label)
    [expected] = torch.autograd.grad(flow.log_prob(x, label).sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_flow_of_splines_is_exact_both_ways():
    flow = tiny_flow(num_classes=3, scale=SplineScale(6)).double()
    z, label = 0.5 * torch.randn(6, *flow.base.shape).double(), torch.tensor([0, 1, 2, -1, 0, 1])
    inverse = flow.decode(z, label)
    found, log_det = flow(inverse.x, label)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse.log_det, log_det, rtol=0, atol=1e-8)


@pytest.mark.parametrize("num_bins", [1, 0, -3])
def test_numbers_of_bins_that_are_none_are_refused(num_bins):
    with pytest.raises(ConfigurationError, match="num_bins"):
        SplineScale(num_bins)
