"""Embeddings of labels, numbers and noise levels."""

import copy
import math

import pytest
import torch

from tarflow.nn.embedding import (
    ExtentEmbedding,
    LabelEmbedding,
    NoiseLevelEmbedding,
    NumberEmbedding,
)

from ..models import randomized


def test_a_label_has_its_own_vector_and_no_label_the_mean():
    embedding = randomized(LabelEmbedding(3, 4))
    embedded = embedding(torch.tensor([2, -1, 0]))
    assert torch.equal(embedded[0], embedding.weight[2])
    assert torch.equal(embedded[2], embedding.weight[0])
    torch.testing.assert_close(embedded[1], sum(embedding.weight) / 3)


def test_no_label_trains_every_vector_alike():
    embedding = LabelEmbedding(3, 4)
    embedding(torch.tensor([-1])).sum().backward()
    torch.testing.assert_close(embedding.weight.grad, torch.full((3, 4), 1 / 3))


def test_noise_levels_are_embedded_as_the_equation_says():
    embedding = randomized(NoiseLevelEmbedding(6)).double()
    levels = [0.01, 0.3, 2.0]
    angles = [[math.log(t) * 10_000 ** (-k / 3) for k in range(3)] for t in levels]
    waves = [[*map(math.sin, row), *map(math.cos, row)] for row in angles]
    expected = embedding.mlp(torch.tensor(waves, dtype=torch.float64))
    found = embedding(torch.tensor(levels, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_numbers_are_embedded_as_the_equation_says():
    embedding = randomized(NumberEmbedding(6)).double()
    numbers = [0.0, 0.5, 3.0]
    angles = [[100 * t * 10_000 ** (-k / 3) for k in range(3)] for t in numbers]
    waves = [[*map(math.sin, row), *map(math.cos, row)] for row in angles]
    expected = embedding.mlp(torch.tensor(waves, dtype=torch.float64))
    found = embedding(torch.tensor(numbers, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16 weights"])
def test_half_precision_does_not_blur_the_sinusoids(autocast):
    embedding = randomized(NoiseLevelEmbedding(16))
    half = embedding if autocast else copy.deepcopy(embedding).bfloat16()
    seen = []
    half.mlp[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    levels = torch.tensor([0.01, 0.0101, 0.3])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = half(levels)
    exact = levels.double().log().sin().float()
    torch.testing.assert_close(seen[0][:, 0].float(), exact, rtol=0.003, atol=0)
    assert found[0].ne(found[1]).any()
    torch.testing.assert_close(found.float(), embedding(levels), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("level", [0.0, -0.1, math.nan, math.inf])
def test_what_is_not_a_level_shows(level):
    assert NoiseLevelEmbedding(4)(torch.tensor([level])).isnan().all()


def test_an_extent_of_0_is_zero_and_teaches_nothing():
    embedding = randomized(ExtentEmbedding(6)).double()
    number = torch.tensor([0.0, 0.25, 1.0, 3.0], dtype=torch.float64)
    vectors = embedding(number)
    whole = NumberEmbedding.forward(embedding, number)
    expected = torch.stack([0 * whole[0], 0.25 * whole[1], whole[2], whole[3]])
    torch.testing.assert_close(vectors, expected)
    gradients = torch.autograd.grad(vectors[0].sum(), list(embedding.parameters()))
    assert not any(each.any() for each in gradients)
