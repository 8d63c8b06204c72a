"""Gaussian bottlenecks against their closed forms, in float64."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tarflow import ConfigurationError, ExampleSeeds
from tarflow.tokenizers import FixedVariance, GaussianBottleneck

SIZE = 3 * 4 * 5
"""Numbers in the latents of an image."""


@pytest.fixture
def mean() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def log_variance() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)


def test_the_divergence_is_that_of_gaussians(mean, log_variance):
    squeeze = GaussianBottleneck(3, weight=0.3).module()
    found = squeeze(torch.cat([mean, log_variance], dim=1))
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), standard).flatten(1).mean(dim=1)
    torch.testing.assert_close(found.logged["kl"], kl)
    torch.testing.assert_close(found.loss, 0.3 * kl)
    assert found.codes is None


def test_gradients_of_the_divergence_in_closed_form(mean, log_variance):
    squeeze = GaussianBottleneck(3, weight=0.3).module()
    squeeze(torch.cat([mean, log_variance], dim=1)).loss.sum().backward()
    torch.testing.assert_close(mean.grad, 0.3 * mean.detach() / SIZE)
    expected = 0.3 * (log_variance.detach().exp() - 1) / 2 / SIZE
    torch.testing.assert_close(log_variance.grad, expected)


def test_gradients_of_draws_go_to_mean_and_deviation(mean, log_variance):
    squeeze = GaussianBottleneck(3).module()
    found = squeeze(torch.cat([mean, log_variance], dim=1)).latents
    std = (log_variance.detach() / 2).exp()
    noise = (found.detach() - mean.detach()) / std
    cotangent = torch.randn_like(noise)
    (found * cotangent).sum().backward()
    torch.testing.assert_close(mean.grad, cotangent)
    torch.testing.assert_close(log_variance.grad, cotangent * noise * std / 2)
    assert abs(noise.mean()) < 0.3
    assert abs(noise.std() - 1) < 0.3


def test_extreme_variances_stay_finite(mean):
    wild = torch.full_like(mean, 1e4).requires_grad_()
    found = GaussianBottleneck(3).module()(torch.cat([mean, wild], dim=1))
    (found.latents.sum() + found.loss.sum()).backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()


def test_a_fixed_variance_leaves_the_mean_alone_to_learn(mean):
    squeeze = FixedVariance(3, std=0.5, weight=0.3).module()
    found = squeeze(mean, torch.Generator().manual_seed(1))
    cotangent = torch.randn_like(mean)
    ((found.latents * cotangent).sum() + found.loss.sum()).backward()
    source = torch.Generator().manual_seed(1)
    noise = torch.randn(mean.shape, generator=source, dtype=torch.float64)
    torch.testing.assert_close(found.latents, mean + 0.5 * noise)
    torch.testing.assert_close(mean.grad, cotangent + 0.3 * mean.detach() / SIZE)
    entropy = (0.25 - 1 - math.log(0.25)) / 2
    kl = mean.detach().square().flatten(1).mean(dim=1) / 2 + entropy
    torch.testing.assert_close(found.logged["kl"], kl)


@pytest.mark.parametrize("described", [GaussianBottleneck(3), FixedVariance(6)])
def test_latents_are_means_and_have_no_noise(described):
    squeeze, hidden = described.module(), torch.randn(2, 6, 4, 5)
    latents = squeeze.latents(hidden)
    assert torch.equal(latents, hidden[:, : described.num_channels])
    assert torch.equal(squeeze.snapped(latents), latents)


def test_noise_does_not_depend_on_the_batch():
    squeeze, hidden = FixedVariance(3).module(), torch.randn(4, 3, 2, 2)
    together = squeeze(hidden, ExampleSeeds(0, range(4))).latents
    assert torch.equal(squeeze(hidden[2:], ExampleSeeds(0, [2, 3])).latents, together[2:])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianBottleneck(0), "num_channels 0 must be at least 1"),
        (lambda: GaussianBottleneck(weight=-0.1), "weight -0.1 must be finite and not negative"),
        (lambda: FixedVariance(std=0.0), "std 0.0 must be finite and positive"),
        (lambda: FixedVariance(std=math.inf), "std inf must be finite and positive"),
        (lambda: FixedVariance(weight=math.nan), "weight nan must be finite"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ConfigurationError, match=words):
        make()
