"""Stochastic variational inference in Pyro, with a flow as the guide."""

import pyro
import pytest
import torch
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from tarflow import FlowDistribution, VectorConditioner
from tests.models import tiny_vectors


class Guide(FlowDistribution, TorchDistributionMixin):
    """A flow as Pyro knows distributions."""


@pytest.fixture(autouse=True)
def fresh():
    """A store of parameters of its own, and the same draws."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


def test_a_posterior_is_found_by_a_flow():
    """Two numbers with a standard normal prior, whose sum was observed."""
    flow = tiny_vectors(2)

    def model():
        z = pyro.sample("z", Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("seen", Normal(z.sum(-1), 0.5), obs=torch.tensor(2.0))

    def guide():
        pyro.module("flow", flow)
        own = flow.distribution()
        pyro.sample("z", Guide(flow, own.context, own.batch_shape, own.event_shape))

    inference = SVI(
        model, guide, Adam({"lr": 1e-2}), Trace_ELBO(num_particles=32, vectorize_particles=True)
    )
    losses = [inference.step() for _ in range(120)]
    evidence = Normal(0.0, (2 + 0.25) ** 0.5).log_prob(torch.tensor(2.0))
    assert sum(losses[-20:]) / 20 == pytest.approx(-float(evidence), abs=0.1)
    samples = flow.sample(4000)
    assert float(samples.sum(dim=1).mean()) == pytest.approx(2 * 2 / 2.25, abs=0.15)
    assert float(torch.corrcoef(samples.T)[0, 1]) < -0.5


def test_expanded_and_conditional_guides():
    flow = tiny_vectors(2, conditioners=[VectorConditioner(1)])
    own = flow.distribution({"vector": torch.zeros(3, 1)})
    guide = Guide(flow, own.context, own.batch_shape, own.event_shape)
    with pyro.plate("rows", 3):
        assert pyro.sample("z", guide).shape == (3, 2)
    assert isinstance(guide.expand((5, 3)), Guide)
    assert guide.expand((5, 3)).to_event(2).event_shape == (5, 3, 2)
