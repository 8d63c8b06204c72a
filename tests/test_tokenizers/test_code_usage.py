"""Codes in use: counts, share and perplexity."""

import math

import pytest
import torch

from tarflow.tokenizers import count_codes, perplexity, share_in_use


def test_counts_are_those_of_each_code():
    codes = torch.randint(5, (3, 4, 2))
    found = count_codes(codes, 7)
    assert found.tolist() == [int((codes == code).sum()) for code in range(7)]


def test_perplexity_is_the_exponential_of_the_entropy():
    counts = torch.tensor([1, 2, 0, 5])
    entropy = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    assert perplexity(counts) == pytest.approx(math.exp(entropy), rel=1e-12)
    assert share_in_use(counts) == 0.75


def test_equal_use_of_all_codes_is_their_number():
    counts = torch.full((1024,), 3)
    assert perplexity(counts) == pytest.approx(1024)
    assert share_in_use(counts) == 1


def test_one_code_in_use_and_none():
    assert perplexity(torch.tensor([0, 9, 0])) == 1
    assert share_in_use(torch.zeros(4, dtype=torch.int64)) == 0
    assert perplexity(torch.zeros(4, dtype=torch.int64)) == 1
