"""Base distributions against those of torch."""

import pytest
import torch
from torch.distributions import Normal

from tarflow import DiagonalNormal, StandardNormal


@pytest.fixture
def diagonal() -> DiagonalNormal:
    """A base with a variance of its own at every dimension."""
    base = DiagonalNormal(3, 2).double()
    base.variance.copy_(torch.rand(3, 2) + 0.5)
    return base


def test_standard_normal_density_is_that_of_torch():
    z = 3 * torch.randn(4, 3, 2, dtype=torch.float64)
    expected = Normal(0.0, 1.0).log_prob(z).sum(dim=(1, 2))
    torch.testing.assert_close(StandardNormal(3, 2).log_prob(z), expected, rtol=1e-12, atol=0)


def test_diagonal_normal_density_is_that_of_torch(diagonal):
    z = 3 * torch.randn(4, 3, 2, dtype=torch.float64)
    expected = Normal(0.0, diagonal.variance.sqrt()).log_prob(z).sum(dim=(1, 2))
    torch.testing.assert_close(diagonal.log_prob(z), expected, rtol=1e-12, atol=0)


def test_samples_have_the_moments(diagonal):
    z = diagonal.sample(20_000)
    assert z.mean(dim=0).abs().max() < 0.05
    torch.testing.assert_close(z.var(dim=0), diagonal.variance, rtol=0.05, atol=0)


def test_update_averages_second_moments_at_rate_a_tenth():
    base, z = DiagonalNormal(3, 2), torch.randn(5, 3, 2) + 1
    base.update(z.square().mean(dim=0))
    torch.testing.assert_close(base.variance, 0.9 + 0.1 * z.square().mean(dim=0))
    before = base.variance.clone()
    base.update((2 * z).square().mean(dim=0))
    torch.testing.assert_close(base.variance, 0.9 * before + 0.4 * z.square().mean(dim=0))


def test_update_builds_no_graph():
    base = DiagonalNormal(3, 2)
    base.update(torch.randn(3, 2, requires_grad=True).square())
    assert not base.variance.requires_grad


def test_a_fresh_variance_is_one_and_saved():
    assert DiagonalNormal(3, 2).state_dict()["variance"].eq(1).all()
    assert not StandardNormal(3, 2).state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base_type", [StandardNormal, DiagonalNormal])
def test_samples_have_the_dtype_of_the_module(base_type, dtype):
    assert base_type(3, 2).to(dtype).sample(4).dtype == dtype


@pytest.mark.parametrize("base_type", [StandardNormal, DiagonalNormal])
def test_samples_and_densities_are_never_below_float32(base_type):
    base = base_type(3, 2).bfloat16()
    z = base.sample(4)
    assert z.dtype == base.log_prob(z).dtype == torch.float32
