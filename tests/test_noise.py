"""Noise on data, and the units of likelihoods."""

import math

import pytest
import torch

from tarflow import ExampleSeeds, GaussianNoise, UniformDequantization

NOISES = [UniformDequantization(17), GaussianNoise(17, std=0.05)]


@pytest.fixture
def pixels() -> torch.Tensor:
    """Every one of 17 values, many times."""
    return torch.arange(17, dtype=torch.uint8).repeat(50, 10)


@pytest.mark.parametrize("levels", [17, 256])
def test_the_uniform_density_scores_exactly_log2_of_the_levels(levels):
    log_prob = torch.full((2,), -192 * math.log(2), dtype=torch.float64)
    bits = UniformDequantization(levels).bits_per_dim(log_prob, 192)
    expected = torch.full_like(bits, math.log2(levels))
    torch.testing.assert_close(bits, expected, rtol=1e-15, atol=0)


def test_bits_per_dim_are_those_of_the_discrete_distribution():
    # A density that is constant in each cell of width 2 / L holds the probability of the pixel.
    probability = torch.rand(17, dtype=torch.float64).softmax(dim=0)
    log_density = torch.log(probability / (2 / 17))
    bits = UniformDequantization(17).bits_per_dim(log_density, 1)
    torch.testing.assert_close(bits, -probability.log2())


def test_dequantization_fills_the_cell_of_each_value(pixels):
    v = UniformDequantization(17)(pixels, dtype=torch.float64)
    u = (v + 1) / 2 * 17 - pixels
    assert u.min() >= -1e-12
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.02
    assert abs(u.var() - 1 / 12) < 0.005


def test_dequantized_integers_are_recovered(pixels):
    assert torch.equal(NOISES[0].to_pixels(NOISES[0](pixels)), pixels)


def test_gaussian_noise_has_its_standard_deviation(pixels):
    added = GaussianNoise(17, 0.05)(pixels, dtype=torch.float64) - (pixels.double() / 8 - 1)
    assert abs(added.mean()) < 0.003
    assert abs(added.std() - 0.05) < 0.002


def test_without_noise_data_spans_minus_one_to_one(pixels):
    noise = GaussianNoise(17, std=0.0)
    x = noise(pixels)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(noise.to_pixels(x), pixels)


@pytest.mark.parametrize("noise", NOISES)
def test_pixels_are_clamped(noise):
    pixels = noise.to_pixels(torch.tensor([[-3.0, 3.0]]))
    assert pixels.dtype == torch.uint8
    assert pixels.tolist() == [[0, 16]]


def test_more_levels_than_a_byte_holds_are_kept():
    noise = GaussianNoise(1000, std=0.0)
    assert noise.to_pixels(noise(torch.tensor([[0, 500, 999]]))).tolist() == [[0, 500, 999]]


@pytest.mark.parametrize("noise", NOISES)
def test_noise_does_not_depend_on_the_batch(noise, pixels):
    together = noise(pixels[:4], ExampleSeeds(3, range(4)))
    assert torch.equal(noise(pixels[2:4], ExampleSeeds(3, range(2, 4))), together[2:])
    assert not torch.equal(noise(pixels[:4], ExampleSeeds(4, range(4))), together)


@pytest.mark.parametrize("noise", NOISES)
def test_pixels_are_untouched(noise, pixels):
    before = pixels.clone()
    noise(pixels)
    assert torch.equal(pixels, before)


def test_gaussian_noise_has_no_bits_per_dim():
    assert not hasattr(GaussianNoise(), "bits_per_dim")


@pytest.mark.parametrize("noise_type", [UniformDequantization, GaussianNoise])
def test_fewer_than_two_levels_are_refused(noise_type):
    with pytest.raises(ValueError, match="levels 1"):
        noise_type(levels=1)


@pytest.mark.parametrize("std", [-0.1, math.nan])
def test_a_negative_standard_deviation_is_refused(std):
    with pytest.raises(ValueError, match="noise std"):
        GaussianNoise(std=std)
