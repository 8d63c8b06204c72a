"""Codecs: what is stored and back, bytes to look at, and the unit of likelihoods."""

import math

import pytest
import torch

from tarflow import ConfigurationError, ExampleSeeds, GaussianNoise, Pixels, UniformDequantization

CODECS = [UniformDequantization(17), Pixels(17)]


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
    x = UniformDequantization(17).encode(pixels, dtype=torch.float64)
    u = (x + 1) / 2 * 17 - pixels
    assert u.min() >= -1e-12
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.02
    assert abs(u.var() - 1 / 12) < 0.005


@pytest.mark.parametrize("codec", CODECS)
def test_stored_values_are_recovered_and_untouched(codec, pixels):
    before = pixels.clone()
    decoded = codec.decode(codec.encode(pixels))
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, pixels)
    assert torch.equal(pixels, before)


def test_a_little_noise_does_not_change_what_is_stored(pixels):
    x = GaussianNoise(0.01)(Pixels(17).encode(pixels))
    assert torch.equal(Pixels(17).decode(x), pixels)


def test_points_span_minus_one_to_one(pixels):
    x = Pixels(17).encode(pixels)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(x[0, :17], 2 * torch.arange(17) / 16 - 1)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_out_of_range_is_clamped(codec):
    assert codec.decode(torch.tensor([[-3.0, 3.0]])).tolist() == [[0, 16]]


def test_more_levels_than_a_byte_holds_are_kept():
    codec = Pixels(1000)
    assert codec.decode(codec.encode(torch.tensor([[0, 500, 999]]))).tolist() == [[0, 500, 999]]


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_show_the_smallest_value_black_and_the_largest_white(codec):
    shown = codec.to_bytes(torch.tensor([0, 8, 16]))
    assert shown.dtype == torch.uint8
    assert shown.tolist() == [0, 128, 255]


def test_what_is_drawn_does_not_depend_on_the_batch(pixels):
    codec = UniformDequantization(17)
    together = codec.encode(pixels[:4], ExampleSeeds(3, range(4)))
    assert torch.equal(codec.encode(pixels[2:4], ExampleSeeds(3, range(2, 4))), together[2:])
    assert not torch.equal(codec.encode(pixels[:4], ExampleSeeds(4, range(4))), together)


def test_points_have_no_likelihood_in_bits():
    assert not hasattr(Pixels(), "bits_per_dim")


@pytest.mark.parametrize("codec_type", [UniformDequantization, Pixels])
def test_fewer_than_two_levels_are_refused(codec_type):
    with pytest.raises(ConfigurationError, match="levels 1"):
        codec_type(levels=1)
