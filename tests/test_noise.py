"""Noise on data, whatever the data is."""

import math

import pytest
import torch

from tarflow import ConfigurationError, ExampleSeeds, GaussianNoise, NoNoise


@pytest.fixture
def x() -> torch.Tensor:
    """Data of no particular kind."""
    return torch.linspace(-3, 3, 8500, dtype=torch.float64).view(50, 170)


def test_gaussian_noise_has_its_standard_deviation(x):
    added = GaussianNoise(0.05)(x) - x
    assert abs(added.mean()) < 0.003
    assert abs(added.std() - 0.05) < 0.002


def test_no_noise_leaves_data_alone(x):
    assert NoNoise()(x) is x


def test_noise_does_not_depend_on_the_batch(x):
    noise = GaussianNoise()
    together = noise(x[:4], ExampleSeeds(3, range(4)))
    assert torch.equal(noise(x[2:4], ExampleSeeds(3, range(2, 4))), together[2:])
    assert not torch.equal(noise(x[:4], ExampleSeeds(4, range(4))), together)


def test_noise_keeps_the_dtype_and_its_input(x):
    before = x.clone()
    for dtype in (torch.float32, torch.float64):
        assert GaussianNoise()(x.to(dtype)).dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf])
def test_a_standard_deviation_out_of_range_is_refused(std):
    with pytest.raises(ConfigurationError, match="noise std"):
        GaussianNoise(std)
