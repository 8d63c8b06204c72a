"""Markov chains, against densities whose moments are known."""

import math

import pytest
import torch

from tarflow import ConfigurationError
from tarflow.estimation.planar import NormalMixture
from tarflow.sampling.langevin_chains import LangevinChains, split_r_hat

STD = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def normal_energy(x):
    """That of a normal density, moved by a constant."""
    return (x / STD).square().sum(dim=1) / 2 + 7


def test_chains_are_exact_with_steps_as_large_as_the_density():
    told = {"num_draws": 20, "thinning": 10, "target_acceptance": 0.4, "num_levels": 1}
    chains = LangevinChains(warm_up=200, **told)
    start = torch.zeros(500, 3, dtype=torch.float64)
    found = chains(normal_energy, start, torch.Generator().manual_seed(0))
    assert found.x.shape == (20, 500, 3)
    assert 0.35 < found.acceptance < 0.45
    assert found.step_size > 0.5
    assert 1 <= found.split_r_hat < 1.05
    torch.testing.assert_close(found.energy.flatten(), normal_energy(found.samples))
    assert float(found.energy.mean()) == pytest.approx(7 + 1.5, abs=0.06)
    torch.testing.assert_close(found.samples.std(dim=0), STD, rtol=0.05, atol=0)


def test_chains_that_swap_find_modes_far_from_where_they_start():
    density = NormalMixture(count=4, radius=2.0, std=0.3)
    start = torch.tensor([[2.0, 0.0]], dtype=torch.float64).expand(200, -1)
    chains = LangevinChains(warm_up=300, num_draws=10, thinning=20, first_share=0.05)
    found = chains(lambda x: -density.log_prob(x), start, torch.Generator().manual_seed(0))
    mode = (found.samples[:, None] - density._centres).norm(dim=2).argmin(dim=1)
    share = mode.bincount(minlength=4).double() / len(mode)
    torch.testing.assert_close(share, torch.full((4,), 0.25).double(), rtol=0, atol=0.03)
    square = found.samples.square().sum(dim=1)
    assert float(square.mean()) == pytest.approx(4 + 2 * 0.09, abs=0.05)
    assert found.split_r_hat < 1.05


def test_chains_that_stay_apart_are_told():
    density = NormalMixture(count=2, radius=6.0, std=0.3)
    start = torch.tensor([[6.0, 0.0], [-6.0, 0.0]], dtype=torch.float64).repeat(20, 1)
    chains = LangevinChains(warm_up=0, num_draws=10, thinning=1, num_levels=1)
    found = chains(
        lambda x: x[:, 0] - density.log_prob(x), start, torch.Generator().manual_seed(0)
    )
    assert found.split_r_hat > 2
    assert split_r_hat(torch.randn(1000, 40, dtype=torch.float64)) == pytest.approx(1, abs=0.01)


def test_where_the_density_is_zero_no_chain_goes():
    def energy(x):
        return torch.where(x[:, 0] > 0, x[:, 0], math.inf)

    chains = LangevinChains(warm_up=300, num_draws=40, thinning=5, num_levels=2)
    start = torch.ones(500, 1, dtype=torch.float64)
    found = chains(energy, start, torch.Generator().manual_seed(0))
    assert (found.samples > 0).all()
    assert float(found.samples.mean()) == pytest.approx(1, abs=0.05)
    with pytest.raises(ConfigurationError, match="not finite where chains start"):
        chains(energy, -start)


@pytest.mark.parametrize(
    "wrong", [{"thinning": 0}, {"first_share": 1.5}, {"first_step_size": 0.0}], ids=str
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        LangevinChains(**wrong)


def test_few_draws_have_no_r_hat():
    with pytest.raises(ConfigurationError, match="keep 4 or more"):
        split_r_hat(torch.zeros(3, 5))
