"""Draws do not depend on the batch they are made in."""

import pytest
import torch

from tarflow import ExampleSeeds
from tarflow.randomness import normal, uniform


def draw(function, source, num=6, dtype=torch.float32):
    return function((num, 5), source, dtype, "cpu")


@pytest.mark.parametrize("function", [normal, uniform])
def test_an_example_draws_the_same_in_any_batch(function):
    together = draw(function, ExampleSeeds(7, range(6)))
    for first, last in ((0, 1), (1, 4), (4, 6)):
        part = draw(function, ExampleSeeds(7, range(first, last)), last - first)
        assert torch.equal(part, together[first:last])


def test_examples_seeds_and_purposes_are_independent():
    drawn = [normal((200, 50), ExampleSeeds(s, range(200)), torch.float64, "cpu") for s in (0, 1)]
    shifted = torch.roll(drawn[0], 1, dims=0)
    uniforms = uniform((200, 50), ExampleSeeds(0, range(200)), torch.float64, "cpu")
    elsewhere = normal((200, 50), ExampleSeeds(0, range(200)), torch.float64, "cpu", "base")
    for other in (drawn[1], shifted, uniforms, elsewhere):
        pairs = torch.stack([drawn[0].flatten(), other.flatten()])
        assert torch.corrcoef(pairs)[0, 1].abs() < 0.05  # five standard errors


def test_purposes_get_different_streams():
    seeds = ExampleSeeds(0, [3])
    [first], [second] = seeds.generators("normal"), seeds.generators("uniform")
    assert first.initial_seed() != second.initial_seed()


@pytest.mark.parametrize("function", [normal, uniform])
def test_dtypes_agree_on_the_draws_of_an_example(function):
    seeds = ExampleSeeds(7, range(6))
    single, double = draw(function, seeds), draw(function, seeds, dtype=torch.float64)
    assert double.dtype == torch.float64
    assert torch.equal(single.double(), double)


@pytest.mark.parametrize("function", [normal, uniform])
def test_a_generator_makes_draws_reproducible(function):
    first, again, other = (
        draw(function, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_a_source_draws_come_from_the_global_generator():
    torch.manual_seed(3)
    first = draw(normal, None)
    assert not torch.equal(draw(normal, None), first)
    torch.manual_seed(3)
    assert torch.equal(draw(normal, None), first)


def test_the_number_of_seeds_must_be_that_of_examples():
    with pytest.raises(ValueError, match="3 example seeds for a batch of 6"):
        draw(normal, ExampleSeeds(0, range(3)))


def test_uniform_is_within_zero_and_one():
    drawn = uniform((1000, 10), None, torch.float32, "cpu")
    assert 0 <= drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1
