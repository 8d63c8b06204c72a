"""The affine map and the parameterizations of its scale."""

import math

import pytest
import torch

from tarflow import Affine, ExpScale, SoftClipScale, SoftplusScale, SplineScale, UnitScale

SCALES = [ExpScale(), SoftClipScale(), SoftplusScale(), UnitScale(), SplineScale(5)]


@pytest.fixture
def affine() -> Affine:
    """Maps at three positions of two examples."""
    return Affine(*torch.randn(2, 2, 3, 4, dtype=torch.float64))


def test_maps_are_those_of_the_equations(affine):
    z = torch.randn(2, 3, 4, dtype=torch.float64)
    x = affine.to_data(z)
    torch.testing.assert_close(x, z * affine.log_scale.exp() + affine.shift)
    torch.testing.assert_close(affine.to_noise(x), z)


def test_log_det_is_minus_the_sum_of_log_scales(affine):
    expected = [-example.sum() for example in affine.log_scale]
    torch.testing.assert_close(affine.log_det(affine.shift), torch.stack(expected))


def test_after_first_puts_the_identity_in_front(affine):
    z = torch.randn(2, 4, 4, dtype=torch.float64)
    x = affine.after_first().to_data(z)
    assert torch.equal(x[:, 0], z[:, 0])
    assert torch.equal(x[:, 1:], affine.to_data(z[:, 1:]))
    assert torch.equal(affine.after_first().log_det(x), affine.log_det(x[:, 1:]))


@pytest.mark.parametrize("scale", SCALES)
def test_zeros_mean_the_identity(scale):
    affine = scale.affine(torch.zeros(1, 2, 3 * scale.num_outputs, dtype=torch.float64))
    torch.testing.assert_close(affine.log_scale, torch.zeros(1, 2, 3, dtype=torch.float64))
    assert not affine.shift.any()
    x = torch.linspace(-7, 7, 6, dtype=torch.float64).view(1, 2, 3)
    torch.testing.assert_close(affine.to_noise(x), x)
    torch.testing.assert_close(affine.to_data(x), x)
    torch.testing.assert_close(affine.log_det(x), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("scale", SCALES[:3])
def test_log_scales_come_before_shifts(scale):
    affine = scale.affine(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert affine.shift.tolist() == [[[3, 4]]]
    assert (affine.log_scale > 0.5).all()


def test_scales_follow_their_formulas():
    raw = torch.linspace(-3, 3, 13, dtype=torch.float64)
    softplus = torch.log1p(torch.exp(raw + math.log(math.e - 1)))
    torch.testing.assert_close(ExpScale().log_scale(raw), raw)
    torch.testing.assert_close(SoftplusScale().log_scale(raw).exp(), softplus)
    torch.testing.assert_close(SoftClipScale(2.0).log_scale(raw), 2 * torch.tanh(raw / 2))


def test_soft_clip_holds_its_bound():
    raw = torch.tensor([-1e4, 1e4])
    assert SoftClipScale(3.0).log_scale(raw).tolist() == [-3, 3]


def test_softplus_is_finite_and_has_gradients_far_out():
    raw = torch.tensor([-60.0, 60.0], requires_grad=True)
    log_scale = SoftplusScale().log_scale(raw)
    log_scale.sum().backward()
    assert log_scale.isfinite().all()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_unit_scale_only_shifts():
    affine = UnitScale().affine(torch.ones(1, 2, 3))
    assert not affine.log_scale.any()
    assert affine.shift.eq(1).all()
