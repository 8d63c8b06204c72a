"""Draws do not depend on the batch they are made in."""

import pytest
import torch

from tarflow import (
    ExampleSeeds,
    GaussianNoise,
    Jacobi,
    LinearGuidance,
    UniformDequantization,
    denoise,
    load,
)
from tarflow.randomness import ExampleStreams, Share, normal, uniform

from .models import tiny_flow


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


@pytest.fixture(params=[torch.float64, torch.bfloat16])
def default_dtype(request):
    """Another default dtype, for the time of a test."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


SOURCES = {
    "example seeds": lambda: ExampleSeeds(7, range(6)),
    "example streams": lambda: ExampleStreams.of(ExampleSeeds(7, range(6))),
    "share": lambda: Share(7, 2, 9),
    "generator": lambda: torch.Generator().manual_seed(7),
}


@pytest.fixture(scope="module")
def drawn():
    """What is drawn where the default dtype is float32."""
    return {
        (name, f.__name__): draw(f, make())
        for name, make in SOURCES.items()
        for f in (normal, uniform)
    }


@pytest.mark.parametrize("function", [normal, uniform])
@pytest.mark.parametrize("name", SOURCES)
def test_draws_do_not_depend_on_the_default_dtype(drawn, default_dtype, function, name):
    assert torch.equal(draw(function, SOURCES[name]()), drawn[name, function.__name__])


def sampled(flow):
    """What is made of fixed seeds: samples in many ways, dequantized pixels, denoised data."""
    seeds, label = ExampleSeeds(0, range(4)), torch.tensor([0, 1, 2, -1])
    rule = {"guidance": LinearGuidance(1.0, 0.5)}
    ways = [{}, {"decoder": Jacobi(3, 1e-4)}, rule, {"dtype": torch.bfloat16}, {"certify": True}]
    found = [flow.sample(4, label, source=seeds, **way) for way in ways]
    warm = {"label": label, "temperature": 0.5}
    found.append(flow.sample(4, warm, source=seeds))
    found += [denoise(flow, found[0], label), flow.log_prob(found[0], label)]
    stored = torch.arange(4 * 2 * 4 * 4).view(4, 2, 4, 4).to(torch.uint8)
    found.append(flow.noisy(stored, seeds))
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A flow in a folder, and what is made of it."""
    folder = tmp_path_factory.mktemp("flow")
    codec, noise = UniformDequantization(256), GaussianNoise(0.1)
    flow = tiny_flow(num_classes=3, codec=codec, noise=noise).eval()
    flow.save_pretrained(folder)
    return folder, sampled(flow)


def test_samples_of_a_seed_do_not_depend_on_the_default_dtype(saved, default_dtype):
    folder, expected = saved
    for ours, theirs in zip(sampled(load(folder)), expected, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


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
