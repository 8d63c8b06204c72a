"""Annealed sequential Monte Carlo, against normalizers and masses that are known."""

import math

import pytest
import torch

from tarflow import (
    ConfigurationError,
    VectorConditioner,
    annealed_samples,
    importance_weights,
)
from tarflow.sampling.annealed import Annealing, anneal
from tarflow.sampling.importance import resampled_rows
from tests.models import tiny_vectors

MEAN = torch.tensor([2.0, -1.0], dtype=torch.float64)
STD = torch.tensor([0.1, 0.3], dtype=torch.float64)
HEIGHT = torch.tensor([0.7, 0.3], dtype=torch.float64)
PLACE = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=torch.float64)


def far(x):
    """The energy of a narrow normal density away from the flow, moved by a constant."""
    return ((x - MEAN) / STD).square().sum(dim=1) / 2 + 5


def uneven(x):
    """The energy of a mixture of two normal densities, without its constant."""
    square = (x[:, None] - PLACE).square().sum(dim=2) / (2 * 0.4**2)
    return -(HEIGHT.log() - square).logsumexp(dim=1)


def test_a_normal_density_far_from_the_flow_is_reached():
    flow = tiny_vectors(2).double()
    source = torch.Generator().manual_seed(0)
    assert importance_weights(flow, far, 2000, source=source).effective_sample_size < 0.02
    found = annealed_samples(flow, far, 1000, source=source)
    expected = math.log(2 * math.pi * float(STD.prod())) - 5
    assert found.log_normalizer == pytest.approx(expected, abs=0.2)
    torch.testing.assert_close(found.x.mean(dim=0), MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close(found.x.std(dim=0), STD, rtol=0.15, atol=0)
    assert list(found.shares) == sorted(set(found.shares))
    assert found.shares[-1] == 1
    assert len(found.acceptance) == len(found.shares) > 2
    assert 0.4 < found.acceptance[-1] < 0.8
    assert 0.02 < found.effective_sample_size < 1


def test_modes_get_their_masses():
    flow = tiny_vectors(2).double()
    found = annealed_samples(flow, uneven, 2000, source=torch.Generator().manual_seed(0))
    assert float((found.x[:, 0] < 0).double().mean()) == pytest.approx(0.7, abs=0.05)
    expected = math.log(2 * math.pi * 0.4**2)
    assert found.log_normalizer == pytest.approx(expected, abs=0.08)


def test_a_flow_that_is_the_density_needs_one_stage():
    flow = tiny_vectors(2).double()
    source = torch.Generator().manual_seed(0)
    found = annealed_samples(
        flow, lambda x: 3 - flow.log_prob(x), 200, annealing=Annealing(num_moves=0), source=source
    )
    assert found.shares == (1.0,)
    assert found.log_normalizer == pytest.approx(-3)
    assert found.effective_sample_size == pytest.approx(1)


def test_resampling_is_unbiased_and_even():
    weight = torch.tensor([0.05, 0.4, 0.0, 0.33, 0.22], dtype=torch.float64)
    source, total = torch.Generator().manual_seed(0), torch.zeros(5, dtype=torch.float64)
    for _ in range(4000):
        count = resampled_rows(weight, 7, source).bincount(minlength=5).double()
        assert ((count - 7 * weight).abs() < 1).all()
        total += count / 4000
    torch.testing.assert_close(total, 7 * weight, rtol=0, atol=0.05)


def test_samples_of_a_hot_density_are_cooled():
    """From a uniform density in a square, without its constant: what is found lacks it too."""
    source = torch.Generator().manual_seed(0)
    x = 8 * torch.rand(2000, 2, dtype=torch.float64, generator=source) - 4

    def inside(x):
        return torch.where((x.abs() < 4).all(dim=1), 0.0 * x[:, 0], -math.inf)

    found = anneal(x, inside, uneven, source=source)
    assert float((found.x[:, 0] < 0).double().mean()) == pytest.approx(0.7, abs=0.05)
    expected = math.log(2 * math.pi * 0.4**2 / 64)
    assert found.log_normalizer == pytest.approx(expected, abs=0.08)


def test_samples_that_share_a_number_move_apart():
    x = torch.tensor([[0.5, 1.0]], dtype=torch.float64).repeat(500, 1)
    found = anneal(
        x, uneven, far, annealing=Annealing(num_moves=200), source=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(found.x.std(dim=0), STD, rtol=0.2, atol=0)


def test_what_cannot_be_is_left():
    def positive(x):
        return torch.where(x[:, 0] > 0, 4 * x[:, 0].square(), math.inf)

    source = torch.Generator().manual_seed(0)
    found = annealed_samples(tiny_vectors(1).double(), positive, 2000, source=source)
    assert (found.x > 0).all()
    assert found.log_normalizer == pytest.approx(math.log(math.sqrt(math.pi) / 4), abs=0.1)
    with pytest.raises(ConfigurationError, match="all energies are infinite"):
        annealed_samples(tiny_vectors(1), lambda x: x[:, 0] * 0 + math.inf, 10)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_samples_without_a_density_are_refused(value):
    x = torch.randn(10, 2, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="a sample has no density: log_prob must be"):
        anneal(x, lambda x: torch.full_like(x[:, 0], value), far)


def test_one_context_is_annealed():
    flow = tiny_vectors(2, conditioners=[VectorConditioner(1)]).double()
    vector = torch.ones(100, 1, dtype=torch.float64)
    told = {"source": torch.Generator().manual_seed(0), "annealing": Annealing(num_moves=1)}
    found = annealed_samples(flow, far, 100, {"vector": vector}, **told)
    assert found.x.shape == (100, 2)
    vector[3] = 2
    with pytest.raises(ConfigurationError, match="contexts of samples differ"):
        annealed_samples(flow, far, 100, {"vector": vector}, **told)


@pytest.mark.parametrize(
    "wrong", [{"kept": 1.0}, {"num_moves": -1}, {"first_step_size": 0.0}], ids=str
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Annealing(**wrong)
