"""The package sbi trains posteriors and likelihoods with our flows, by its own interface."""

import contextlib
import math

import pytest
import torch
from sbi.diagnostics import check_sbc, run_sbc
from sbi.inference import NLE, NPE
from sbi.inference.posteriors.base_posterior import NeuralPosterior
from sbi.utils import BoxUniform
from sbi.utils.metrics import c2st
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from tarflow import Interval, SplineScale
from tarflow.estimation.sbi_flow import sbi_flow

TINY = {"num_transforms": 2, "num_layers": 1, "model_dim": 32, "head_dim": 16}
STD = 0.5
pytestmark = pytest.mark.filterwarnings("ignore")  # of sbi itself


def gaussian(num: int) -> tuple[MultivariateNormal, Tensor, Tensor]:
    """A prior, parameters, and what a linear simulator makes of them."""
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    theta = prior.sample((num,))
    return prior, theta, theta + STD * torch.randn(num, 2)


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """A folder to work in, where sbi leaves its logs."""
    with contextlib.chdir(tmp_path_factory.mktemp("sbi")):
        yield


@pytest.fixture(scope="module")
def posterior():
    """That of the linear simulator, by NPE."""
    torch.manual_seed(0)
    prior, theta, x = gaussian(4000)
    inference = NPE(prior, density_estimator=sbi_flow(**TINY), show_progress_bars=False)
    options = {"training_batch_size": 100, "learning_rate": 5e-4, "max_num_epochs": 30}
    inference.append_simulations(theta, x).train(**options)
    return inference.build_posterior()


def test_a_posterior_of_a_linear_simulator_is_the_exact_one(posterior):
    x = torch.tensor([0.8, -0.4])
    samples = posterior.sample((4000,), x=x, show_progress_bars=False)
    shrink = 1 / (1 + STD**2)
    torch.testing.assert_close(samples.mean(dim=0), shrink * x, rtol=0, atol=0.1)
    std = torch.full((2,), (STD**2 * shrink) ** 0.5)
    torch.testing.assert_close(samples.std(dim=0), std, rtol=0, atol=0.07)
    assert posterior.log_prob(samples[:5], x=x).shape == (5,)


def test_it_is_calibrated_by_simulation(posterior):
    torch.manual_seed(1)
    prior, theta, x = gaussian(150)
    options = {"num_posterior_samples": 200, "show_progress_bar": False}
    ranks, draws = run_sbc(theta, x, posterior, **options)
    found = check_sbc(ranks, prior.sample((150,)), draws, num_posterior_samples=200)
    assert (found["ks_pvals"] > 0.01).all()


# --- Two moons (arXiv 2101.04653): a posterior of two modes, known exactly ----------------------


def crescent(num: int) -> Tensor:
    """Points of a crescent, to which the simulator adds what parameters make."""
    angle = math.pi * (torch.rand(num) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(num)
    return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], dim=1)


def two_moons(theta: Tensor) -> Tensor:
    """The simulator."""
    along, across = theta.sum(dim=1).abs(), theta[:, 1] - theta[:, 0]
    return crescent(len(theta)) + torch.stack([-along, across], dim=1) / math.sqrt(2)


def exact_posterior(x: Tensor, num: int) -> Tensor:
    """Samples of the parameters that an observation may come from, under a uniform prior."""
    points = crescent(4 * num) - x
    along = points[:, 0] * torch.randn(4 * num).sign()
    theta = torch.stack([along + points[:, 1], along - points[:, 1]], dim=1) / math.sqrt(2)
    possible = (points[:, 0] >= 0) & (theta.abs() <= 1).all(dim=1)
    return theta[possible][:num]


@pytest.fixture(scope="module")
def moons() -> tuple[BoxUniform, NeuralPosterior]:
    """The prior, and the posterior by NPE."""
    torch.manual_seed(0)
    prior = BoxUniform(-torch.ones(2), torch.ones(2))
    theta = prior.sample((40_000,))
    sizes = {"num_transforms": 2, "num_layers": 2, "model_dim": 64, "head_dim": 16}
    bounded = sbi_flow(supports=Interval(-1.0, 1.0), scale=SplineScale(12), **sizes)
    inference = NPE(prior, density_estimator=bounded, show_progress_bars=False)
    inference.append_simulations(theta, two_moons(theta))
    for lr, epochs in ((4e-3, 14), (1e-3, 21), (2.5e-4, 25)):  # sbi has no schedule of its own
        options = {"training_batch_size": 400, "learning_rate": lr, "max_num_epochs": epochs}
        inference.train(**options, resume_training=lr < 4e-3)
    return prior, inference.build_posterior()


@pytest.mark.slow
def test_two_moons_are_hard_to_tell_from_the_exact_ones(moons):
    _, posterior = moons
    x = torch.tensor([0.0, 0.0])
    exact = exact_posterior(x, 1000)
    drawn = posterior.sample((1000,), x=x, show_progress_bars=False)
    share = float((drawn.sum(dim=1) > 0).float().mean())  # of one of the two
    assert share == pytest.approx(0.5, abs=0.1)
    assert float(c2st(drawn, exact)) < 0.75  # 0.5 is the same, 1 another


@pytest.mark.slow
def test_two_moons_are_calibrated_by_simulation(moons):
    prior, posterior = moons
    torch.manual_seed(1)
    theta = prior.sample((200,))
    options = {"num_posterior_samples": 200, "show_progress_bar": False}
    ranks, draws = run_sbc(theta, two_moons(theta), posterior, **options)
    found = check_sbc(ranks, prior.sample((200,)), draws, num_posterior_samples=200)
    assert (found["ks_pvals"] > 0.05).all()
    assert (found["c2st_dap"] < 0.6).all()


def test_a_likelihood_is_trained():
    torch.manual_seed(0)
    prior, theta, x = gaussian(1000)
    inference = NLE(prior, density_estimator=sbi_flow(**TINY), show_progress_bars=False)
    estimator = inference.append_simulations(theta, x).train(max_num_epochs=15, learning_rate=5e-3)
    given = torch.zeros(1, 2)
    drawn = estimator.sample((3000,), given)
    assert drawn.shape == (3000, 1, 2)
    assert float(drawn.std()) == pytest.approx(STD, abs=0.1)
    x, log_prob = estimator.sample_and_log_prob(torch.Size([7]), given)
    torch.testing.assert_close(log_prob, estimator.log_prob(x, given), rtol=1e-4, atol=1e-4)


def test_shapes_supports_and_embeddings():
    theta, x = torch.rand(50, 3), torch.randn(50, 2, 4)
    embedding = nn.Sequential(nn.Flatten(), nn.Linear(8, 5))
    estimator = sbi_flow(embedding, supports=Interval(0.0, 1.0), **TINY)(theta, x)
    assert estimator.input_shape == (3,)
    assert estimator.condition_shape == (2, 4)
    assert estimator.loss(theta, x).shape == (50,)
    assert estimator.log_prob(theta.expand(6, 50, 3), x).shape == (6, 50)
    drawn = estimator.sample((2, 3), x[:4])
    assert drawn.shape == (2, 3, 4, 3)
    assert ((drawn > 0) & (drawn < 1)).all()
    estimator.loss(theta, x).sum().backward()
    assert embedding[1].weight.grad is not None


def test_priors_with_bounds():
    torch.manual_seed(0)
    prior = BoxUniform(-torch.ones(1), torch.ones(1))
    theta = prior.sample((300,))
    estimator = sbi_flow(supports=Interval(-1.0, 1.0), **TINY)
    inference = NPE(prior, density_estimator=estimator, show_progress_bars=False)
    inference.append_simulations(theta, theta + torch.randn(300, 1)).train(max_num_epochs=2)
    built = inference.build_posterior()
    assert built.leakage_correction(torch.zeros(1, 1)) == pytest.approx(1.0)
