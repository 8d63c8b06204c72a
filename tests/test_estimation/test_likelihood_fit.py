"""Fits in memory: held-out rows, weights, repeatability, and what is refused."""

import copy
import math

import pytest
import torch

from tarflow import (
    ConfigurationError,
    DataError,
    HalfLine,
    Integers,
    Interval,
    LinearGuidance,
    MaskConditioner,
    VectorConditioner,
)
from tarflow.estimation import LikelihoodFit
from tests.models import tiny_tokens, tiny_vectors


def normal(num: int, seed: int = 0) -> torch.Tensor:
    """Rows of a correlated normal, far from standardized."""
    draw = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))
    return draw @ torch.tensor([[3.0, 1.0], [0.0, 0.1]]) + torch.tensor([50.0, -7.0])


def entropy() -> float:
    """That of such a row, in nats."""
    return math.log(2 * math.pi * math.e) + math.log(0.3)


def test_a_fit_reaches_the_entropy_of_a_normal():
    flow = tiny_vectors(2)
    history = LikelihoodFit(max_steps=300, batch_size=128, lr=5e-3)(
        flow, normal(2000), source=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        loss = float(-flow.log_prob(normal(4000, seed=1)).mean())
    assert entropy() - 0.05 < loss < entropy() + 0.05
    assert history.steps <= 300
    assert len(history.validation) == history.steps // 50
    assert not flow.training


def test_a_fit_is_repeatable_and_leaves_the_generator_of_torch_alone():
    found, start = [], tiny_vectors(2, dropout=0.3)
    for _ in range(2):
        flow = copy.deepcopy(start)
        before = torch.get_rng_state()
        LikelihoodFit(max_steps=10)(flow, normal(100), source=torch.Generator().manual_seed(1))
        assert torch.equal(before, torch.get_rng_state())
        found.append(flow.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_torchs_own_seed_fixes_a_fit_without_a_source():
    found, start = [], tiny_vectors(2)
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        flow = copy.deepcopy(start)
        LikelihoodFit(max_steps=3)(flow, normal(50))
        found.append(float(flow.log_prob(normal(50)).mean().detach()))
    assert found[0] == found[1] != found[2]


def test_weights_count_rows():
    """Rows of weight 0 are as if they were not there."""
    x = torch.cat([normal(500), normal(500) + 100])
    weight = torch.cat([torch.ones(500), torch.zeros(500)])
    flow = tiny_vectors(2)
    fit = LikelihoodFit(max_steps=150, validation_fraction=0.0, lr=5e-3)
    fit(flow, x, weight=weight, source=torch.Generator().manual_seed(0))
    with torch.no_grad():
        near, far = (float(flow.log_prob(part).mean()) for part in (x[:500], x[500:]))
    assert near > -entropy() - 0.3
    assert far < near - 5


def test_the_best_weights_are_kept_and_a_fit_ends_by_patience():
    flow, x = tiny_vectors(2), normal(40)
    fit = LikelihoodFit(max_steps=4000, lr=3e-2, patience=2, look_every=5)
    history = fit(flow, x, source=torch.Generator().manual_seed(0))
    assert history.steps < 4000
    best = min(history.validation)
    assert history.best_step == 5 * (1 + history.validation.index(best))
    assert history.steps - history.best_step == 10


def test_conditions_are_learned_and_dropped_for_guidance():
    vector = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    flow = tiny_vectors(1, conditioners=[VectorConditioner(1)])
    fit = LikelihoodFit(max_steps=200, context_dropout=0.2)
    fit(flow, 3 * vector + 1, {"vector": vector}, source=torch.Generator().manual_seed(0))
    told = {"vector": torch.ones(500, 1)}
    assert float(flow.sample(500, told).mean()) == pytest.approx(4, abs=0.3)
    assert float(flow.sample(500).std()) == pytest.approx(3, abs=0.7)
    guided = flow.sample(500, told, guidance=LinearGuidance(0.5))
    assert float(guided.mean()) > float(flow.sample(500, told).mean())


def test_supports_and_masks_are_fitted():
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(3000, 3, 2, generator=draws)
    x[..., 1] = (10 * x[..., 1]).floor()
    flow = tiny_tokens(3, 2, supports=[Interval(0.0, 1.0), Integers(0, 9)])
    mask = torch.rand(3000, 3, generator=draws) < 0.7
    mask[:, 0] = True
    history = LikelihoodFit(max_steps=200)(flow, x, {"mask": mask}, source=draws)
    per_position = min(history.validation) / float(mask.float().sum(dim=1).mean())
    assert per_position == pytest.approx(math.log(10), abs=0.1)
    assert any(isinstance(each, MaskConditioner) for each in flow.conditioners)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    flow, x = tiny_vectors(2), normal(64)
    fit = LikelihoodFit(max_steps=3, validation_fraction=0.0, batch_size=64)
    with torch.no_grad():
        flow.transform[3].network.proj_out.bias.fill_(math.nan)
    history = fit(flow, x, source=torch.Generator().manual_seed(0))
    assert history.skipped == history.steps == 3
    fit = LikelihoodFit(max_steps=3)
    with pytest.raises(DataError, match="never finite"):
        fit(flow, x, source=torch.Generator().manual_seed(0))


WRONG = {
    "rows outside": ((torch.tensor([[1.0, -1.0]] * 3),), {}, r"column 1 .* HalfLine"),
    "shape": ((torch.ones(3, 3),), {}, r"takes \(batch, 2\)"),
    "negative": ((torch.rand(3, 2),), {"weight": -torch.ones(3)}, "not negative"),
    "no weight": ((torch.rand(3, 2),), {"weight": torch.zeros(3)}, "all weights are 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_examples_are_refused(name):
    arguments, keywords, message = WRONG[name]
    flow = tiny_vectors(2, supports=HalfLine())
    with pytest.raises(ConfigurationError, match=message):
        LikelihoodFit(max_steps=1)(flow, *arguments, **keywords)


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"max_steps": 0}, {"validation_fraction": 1.0}, {"batch_size": 0}]
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        LikelihoodFit(**wrong)
