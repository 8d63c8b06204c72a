"""Importance weights, against what is known of normal densities."""

import math

import pytest
import torch

from tarflow import ConfigurationError, ExampleSeeds, LinearGuidance, importance_weights
from tests.models import tiny_tokens, tiny_vectors


def energy(x):
    """That of a standard normal density, moved by a constant."""
    return x.square().flatten(1).sum(dim=1) / 2 + 3


def test_weights_are_those_of_the_ratio_of_densities():
    flow = tiny_vectors(2).double()
    found = importance_weights(flow, energy, 4000, source=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.log_prob, flow.log_prob(found.x))
    torch.testing.assert_close(found.log_weight, -energy(found.x) - found.log_prob)
    weight = found.log_weight.exp()
    share = weight.sum() ** 2 / weight.square().sum() / 4000
    assert found.effective_sample_size == pytest.approx(float(share))
    assert 0 < found.effective_sample_size < 1
    assert found.log_normalizer == pytest.approx(math.log(2 * math.pi) - 3, abs=0.05)
    moments = found.mean(found.x[:, :, None] * found.x[:, None, :])
    torch.testing.assert_close(moments, torch.eye(2).double(), rtol=0, atol=0.1)
    again = found.resampled(20_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.var(dim=0), torch.ones(2).double(), rtol=0, atol=0.1)


def test_what_cannot_be_has_no_weight():
    flow = tiny_vectors(1)

    def positive(x):
        return torch.where(x[:, 0] > 0, energy(x), math.inf)

    found = importance_weights(flow, positive, 500, source=torch.Generator().manual_seed(0))
    assert found.effective_sample_size < 0.7
    assert (found.resampled(100) > 0).all()
    assert found.resampled(0).shape == (0, 1)


def test_masked_tokens_and_decoders():
    flow = tiny_tokens().double()
    mask = torch.tensor([[True, True, False, False, False]]).expand(50, -1)
    found = importance_weights(flow, energy, 50, {"mask": mask}, source=ExampleSeeds(0, range(50)))
    assert found.x.shape == (50, 5, 2)
    torch.testing.assert_close(found.log_prob, flow.log_prob(found.x, {"mask": mask}))


WRONG = {
    "guidance": ({"guidance": LinearGuidance(1.0)}, energy, "leave guidance out"),
    "shape": ({}, lambda x: x, "one number for each"),
    "NaN": ({}, lambda x: x[:, 0] * math.nan, "an energy is NaN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_has_no_weights_is_refused(name):
    options, wrong, message = WRONG[name]
    with pytest.raises(ConfigurationError, match=message):
        importance_weights(tiny_vectors(2), wrong, 5, **options)
