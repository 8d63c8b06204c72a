"""Tweedie's formula."""

import pytest
import torch

from tarflow import Flow, GaussianNoise, Reverse, StandardNormal, UniformDequantization, denoise

from .models import tiny_flow


@pytest.fixture
def noisy() -> Flow:
    """A flow that knows the noise it was trained with, in float64."""
    return tiny_flow(num_classes=3, noise=GaussianNoise(std=0.3)).double()


def test_denoising_moves_by_the_variance_times_the_score(noisy, x, y):
    torch.testing.assert_close(denoise(noisy, x, y, 0.5), x + 0.25 * noisy.score(x, y))


def test_the_standard_deviation_is_by_default_that_of_the_flow(noisy, x, y):
    assert torch.equal(denoise(noisy, x, y), denoise(noisy, x, y, 0.3))


def test_denoising_a_gaussian_is_its_posterior_mean():
    # Clean data of variance 1 - s^2 and noise of variance s^2: the posterior mean is (1 - s^2) x.
    flow, x = Flow([Reverse()], StandardNormal(3, 2)), torch.randn(4, 3, 2)
    torch.testing.assert_close(denoise(flow, x, noise_std=0.6), 0.64 * x)


@pytest.mark.parametrize("noise", [None, UniformDequantization()])
def test_denoising_needs_a_standard_deviation(x, noise):
    flow = tiny_flow(noise=noise).double()
    with pytest.raises(ValueError, match="noise_std"):
        denoise(flow, x)


def test_denoising_builds_no_graph_and_leaves_the_input_alone(noisy, x, y):
    x.requires_grad_()
    before = x.detach().clone()
    assert not denoise(noisy, x, y).requires_grad
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(parameter.grad is None for parameter in noisy.parameters())
