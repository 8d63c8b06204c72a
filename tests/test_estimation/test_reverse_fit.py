"""Fits to an energy: the gradient, what is reached, and what is refused."""

import copy
import math

import pytest
import torch

from tarflow import ConfigurationError, DataError, VectorConditioner, importance_weights
from tarflow.estimation import ReverseFit
from tarflow.estimation.reverse_fit import reverse_loss
from tarflow.flows.context import Context
from tests.models import tiny_vectors

PRECISION = torch.tensor([[2.0, 1.2], [1.2, 1.0]])


def correlated(x):
    """The energy of a correlated normal density."""
    away = x - 1
    return torch.einsum("bi,ij,bj->b", away, PRECISION.to(x), away) / 2


def plain_loss(flow, z, energy):
    """The divergence as it is, by samples that gradients flow through."""
    x = flow.inverse(z)
    return flow.log_prob(x) + energy(x)


def gradient(flow, loss) -> torch.Tensor:
    """That of all weights in one vector."""
    found = torch.autograd.grad(loss.mean(), list(flow.parameters()), materialize_grads=True)
    return torch.cat([each.flatten() for each in found])


def test_the_gradient_is_that_of_the_divergence_on_average():
    flow = tiny_vectors(2, num_layers=1, num_transforms=1).double()
    source = torch.Generator().manual_seed(0)
    gaps, plain = [], []
    for _ in range(25):
        z = flow.base.sample(400, source)
        plain.append(gradient(flow, plain_loss(flow, z, correlated)))
        gaps.append(gradient(flow, reverse_loss(flow, z, Context(), correlated)) - plain[-1])
    gap, expected = torch.stack(gaps), torch.stack(plain).mean(dim=0).norm()
    error = gap.std(dim=0).norm() / 5
    assert float(gap.mean(dim=0).norm()) < 2 * float(error) < 0.1 * float(expected)
    assert float(gap[0].norm()) > 0.01  # sample by sample it is another


def test_the_gradient_vanishes_where_the_flow_is_the_density():
    flow = tiny_vectors(2).double()
    truth = copy.deepcopy(flow)
    z = flow.base.sample(50, torch.Generator().manual_seed(0))

    def energy(x):
        return 2 - truth.log_prob(x)

    loss = reverse_loss(flow, z, Context(), energy)
    torch.testing.assert_close(loss, torch.full_like(loss, 2))
    assert float(gradient(flow, loss).abs().max()) < 1e-12
    assert float(gradient(flow, plain_loss(flow, z, energy)).abs().max()) > 1e-3


def test_a_fit_finds_a_normal_density():
    flow = tiny_vectors(2, num_transforms=1, num_layers=1)
    fit = ReverseFit(max_steps=120, batch_size=64, lr=1e-2, look_every=40, num_looked=500)
    history = fit(flow, correlated, source=torch.Generator().manual_seed(0))
    found = importance_weights(flow, correlated, 4000, source=torch.Generator().manual_seed(1))
    assert found.effective_sample_size > 0.9
    expected = math.log(2 * math.pi / math.sqrt(float(PRECISION.det())))
    assert found.log_normalizer == pytest.approx(expected, abs=0.03)
    assert (history.steps, history.skipped) == (120, 0)
    assert len(history.divergence) == len(history.effective_sample_size) == 3
    assert history.divergence[-1] == pytest.approx(-expected, abs=0.15)
    assert history.effective_sample_size[-1] > 0.9


def test_a_fit_is_repeatable_and_leaves_the_generator_of_torch_alone():
    found, start = [], tiny_vectors(2)
    for _ in range(2):
        flow = copy.deepcopy(start)
        before = torch.get_rng_state()
        fit = ReverseFit(max_steps=3, batch_size=8, look_every=1, num_looked=5)
        fit(flow, correlated, source=torch.Generator().manual_seed(1))
        assert torch.equal(before, torch.get_rng_state())
        found.append(flow.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_one_context_is_fitted():
    flow = tiny_vectors(1, conditioners=[VectorConditioner(1)], num_transforms=1)
    told = {"vector": torch.ones(32, 1)}
    fit = ReverseFit(max_steps=40, batch_size=32, lr=2e-2, num_looked=0, first_share=1.0)
    fit(flow, lambda x: 2 * (x[:, 0] - 1).square(), told, torch.Generator().manual_seed(0))
    x = flow.sample(2000, {"vector": torch.ones(2000, 1)})
    assert float(x.mean()) == pytest.approx(1, abs=0.15)


def test_high_energies_count_less():
    fit = ReverseFit(energy_limit=10.0)
    energy = torch.tensor([-3.0, 9.0, 11.0, 1e12], dtype=torch.float64, requires_grad=True)
    found = fit._limited(energy)
    expected = [-3.0, 9.0, 10 + math.log(2), 10 + math.log(1e12 - 9)]
    assert found.tolist() == pytest.approx(expected)
    found.sum().backward()
    assert energy.grad.tolist() == pytest.approx([1, 1, 0.5, 0], abs=1e-9)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    flow = tiny_vectors(2)
    before = copy.deepcopy(flow.state_dict())
    with pytest.raises(DataError, match="in 3 steps in a row"):
        ReverseFit(max_steps=3, num_looked=0)(flow, lambda x: x[:, 0] * math.nan)
    assert all(torch.equal(before[name], each) for name, each in flow.state_dict().items())


def test_a_fit_that_is_lost_ends():
    calls = []

    def breaks(x):
        calls.append(None)
        return x.square().sum(dim=1) * (1.0 if len(calls) <= 10 else math.nan)

    with pytest.raises(DataError, match=r"50 steps in a row, up to step 60: .*lower lr"):
        ReverseFit(max_steps=200, batch_size=8, num_looked=0)(tiny_vectors(2), breaks)


WRONG = [{"lr": 0.0}, {"first_share": 0.0}, {"annealed": 2.0}, {"energy_limit": math.nan}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ReverseFit(**wrong)
