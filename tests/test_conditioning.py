"""Conditioners: nulls, dropping and stacking work for any part, named nowhere."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tarflow import (
    NULL_CLASS,
    Conditioner,
    Context,
    ContextError,
    LabelConditioner,
    NoiseLevelConditioner,
    TarFlow,
    UniformLevels,
)
from tarflow.flows.conditioning import TemperatureConditioner, with_dropout, with_null

from .models import randomized, tiny_flow


@dataclass(frozen=True)
class GivenVector(Conditioner):
    """A vector for each example; none of it is all zeros."""

    size: int = 5
    part: ClassVar[str] = "vector"

    def null(self, examples: Tensor) -> Tensor:
        return torch.zeros(len(examples), self.size, dtype=examples.dtype, device=examples.device)

    def module(self, model_dim: int) -> nn.Module:
        return nn.Linear(self.size, model_dim)


LABELS, TEMPERATURE, VECTORS = LabelConditioner(3), TemperatureConditioner(), GivenVector()
ALL = (LABELS, VECTORS, TEMPERATURE)


def test_the_null_context_is_stacked_under_the_conditional_one():
    context = Context(torch.tensor([2, 0]), vector=torch.ones(2, 5))
    stacked = with_null(context, ALL, torch.zeros(2), temperature=0.25)
    assert stacked.label.tolist() == [2, 0, NULL_CLASS, NULL_CLASS]
    assert stacked.temperature.tolist() == [1, 1, 0.25, 0.25]
    assert stacked["vector"].tolist() == [[1.0] * 5] * 2 + [[0.0] * 5] * 2


def test_parts_that_are_missing_are_null_in_both_halves():
    stacked = with_null(Context(), ALL, torch.zeros(2))
    assert stacked.label.tolist() == [NULL_CLASS] * 4
    assert stacked["vector"].eq(0).all()
    assert stacked.temperature is None  # dividing by one costs time


def test_the_temperature_of_the_conditional_prediction_survives_stacking():
    context = Context(torch.tensor([2, 0]), torch.tensor([0.5, 2.0]))
    for temperature in (1.0, 0.25):
        stacked = with_null(context, ALL, torch.zeros(2), temperature)
        assert stacked.temperature.tolist() == [0.5, 2.0, temperature, temperature]


def test_labels_are_dropped_at_the_rate_and_reproducibly():
    context = Context(torch.arange(10_000) % 3)
    dropped, again = (
        with_dropout(context, ALL, 0.1, torch.Generator().manual_seed(5)).label for _ in range(2)
    )
    gone = dropped == NULL_CLASS
    assert abs(gone.float().mean() - 0.1) < 0.015  # five standard errors
    assert torch.equal(dropped[~gone], context.label[~gone])
    assert torch.equal(dropped, again)


def test_all_conditions_of_an_example_are_dropped_together_and_temperatures_never():
    context = Context(torch.zeros(100).long(), torch.full((100,), 0.5), vector=torch.ones(100, 5))
    dropped = with_dropout(context, ALL, 0.5, torch.Generator().manual_seed(0))
    gone = dropped.label == NULL_CLASS
    assert 0 < gone.sum() < 100
    assert torch.equal(dropped["vector"].eq(0).all(dim=1), gone)
    assert dropped.temperature.eq(0.5).all()
    assert context.label.eq(0).all()


def test_there_may_be_nothing_to_drop():
    assert list(with_dropout(Context(), ALL, 0.5)) == []
    kept = with_dropout(Context(torch.arange(3)), ALL, 0.0)
    assert kept.label.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_of_another_kind_are_refused(dtype):
    with pytest.raises(ContextError, match="labels are integers"):
        LABELS.read(torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype_mean_the_same(dtype):
    flow = randomized(TarFlow(4, 2, 1, 2, 1, 8, 8, num_classes=3)).eval()
    x, label = torch.rand(3, 1, 4, 4), torch.tensor([2, 0, 1])
    assert torch.equal(flow.log_prob(x, label.to(dtype)), flow.log_prob(x, label))


@pytest.mark.parametrize("label", [[0, 3], [-2, 0]])
def test_labels_out_of_range_are_refused_where_values_are_looked_at(label):
    with pytest.raises(ContextError, match=r"this model knows 0 \.\.\. 2"):
        LABELS.check(torch.tensor(label))


@pytest.mark.parametrize("value", [0.0, -1.0, torch.nan])
def test_temperatures_that_divide_by_nothing_are_refused(value):
    with pytest.raises(ContextError, match="temperature"):
        TEMPERATURE.check(torch.tensor([1.0, value]))


def test_a_part_that_no_conditioner_reads_is_refused_by_name():
    flow = TarFlow(4, 2, 1, 1, 1, 8, 8)
    with pytest.raises(ContextError, match="vector is unknown: this model knows temperature"):
        flow.log_prob(torch.zeros(2, 1, 4, 4), {"vector": torch.zeros(2, 5)})
    with pytest.raises(ContextError, match="no classes"):
        flow.log_prob(torch.zeros(2, 1, 4, 4), 1)


def test_a_flow_of_another_condition_guides_and_round_trips_with_it():
    from tarflow import LinearGuidance

    flow = TarFlow(4, 2, 1, 2, 1, 8, 8, num_classes=3, conditioners=(VECTORS,))
    flow = randomized(flow, 0.2).double().eval()
    x, vector = torch.rand(3, 1, 4, 4).double(), torch.rand(3, 5).double()
    context = Context(torch.tensor([0, 1, 2]), vector=vector)
    with torch.no_grad():
        z, _ = flow(x, context)
        torch.testing.assert_close(flow.inverse(z, context), x, rtol=0, atol=1e-12)
        assert not torch.allclose(flow(x, Context(context.label))[0], z)
        weak, strong = (
            flow.inverse(z, context, guidance=LinearGuidance(weight)) for weight in (0.0, 1.0)
        )
        assert not torch.allclose(weak, strong)


def test_a_mixture_of_classes_is_embedded_as_their_mean():
    flow = randomized(TarFlow(4, 2, 1, 2, 1, 8, 8, num_classes=3), 0.2).double().eval()
    x, label = torch.rand(4, 1, 4, 4).double(), torch.tensor([2, 0, 1, -1])
    rows = torch.nn.functional.one_hot(label.clamp(min=0), 3).double()
    rows[3] = 1 / 3
    torch.testing.assert_close(flow.log_prob(x, rows), flow.log_prob(x, label), rtol=0, atol=1e-12)
    mixed = flow.log_prob(x, torch.tensor([[0.5, 0.25, 0.25]]).expand(4, 3))
    assert not torch.isclose(mixed, flow.log_prob(x, -1)).any()
    weights = rows.clone().requires_grad_()
    flow.log_prob(x, weights).sum().backward()
    assert weights.grad.abs().min() > 0


def test_mixtures_of_classes_are_guided_and_dropped():
    from tarflow import ExampleSeeds, LinearGuidance

    flow = randomized(TarFlow(4, 2, 1, 2, 1, 8, 8, num_classes=3), 0.2).double().eval()
    label, seeds = torch.tensor([2, 0, 1]), ExampleSeeds(0, range(3))
    rows = torch.nn.functional.one_hot(label, 3).double()
    guided = (
        flow.sample(3, given, source=seeds, guidance=LinearGuidance(1.0))
        for given in (label, rows)
    )
    torch.testing.assert_close(*guided, rtol=0, atol=1e-12)
    context = Context(rows.repeat(50, 1))
    dropped = with_dropout(context, (LABELS,), 0.5, torch.Generator().manual_seed(0)).label
    gone = dropped.eq(1 / 3).all(dim=1)
    assert 0 < gone.sum() < 150
    assert torch.equal(dropped[~gone], context.label[~gone])


@pytest.mark.parametrize("rows", [[[0.5, 0.6, 0.0]], [[1.5, -0.5, 0.0]], [[torch.nan, 0.5, 0.5]]])
def test_weights_of_classes_that_are_none_are_refused(rows):
    with pytest.raises(ContextError, match="weights of classes must not be negative"):
        LABELS.check(LABELS.read(torch.tensor(rows)))
    with pytest.raises(ContextError, match="labels are integers"):
        LABELS.read(torch.ones(1, 2))


# --- Noise levels ---------------------------------------------------------------------------

LEVELS = NoiseLevelConditioner()


def test_the_null_prediction_keeps_the_noise_level():
    context = Context(torch.tensor([2, 0]), noise_level=torch.tensor([0.1, 0.2]))
    for temperature in (1.0, 0.5):
        stacked = with_null(context, (*ALL, LEVELS), torch.zeros(2), temperature)
        assert stacked.label.tolist() == [2, 0, NULL_CLASS, NULL_CLASS]
        assert torch.equal(stacked["noise_level"], torch.tensor([0.1, 0.2, 0.1, 0.2]))


def test_noise_levels_are_never_dropped():
    levels = torch.linspace(0.1, 0.2, 50)
    dropped = with_dropout(
        Context(torch.zeros(50).long(), noise_level=levels), (LABELS, LEVELS), 1.0
    )
    assert dropped.label.eq(NULL_CLASS).all()
    assert torch.equal(dropped["noise_level"], levels)
    alone = Context(noise_level=levels)
    assert with_dropout(alone, (LABELS, LEVELS), 1.0) is alone


@pytest.mark.parametrize("level", [0.0, -0.1, math.nan, math.inf])
def test_levels_that_are_not_positive_and_finite_are_refused(level):
    flow = tiny_flow(noise=UniformLevels())
    with pytest.raises(ContextError, match=r"finite standard deviation of noise: pass .* above 0"):
        flow.sample(2, {"noise_level": torch.tensor([0.1, level])})


def test_levels_are_a_floating_point_number_for_each_example():
    for level in (torch.tensor([1, 2]), torch.ones(2, 1)):
        with pytest.raises(ContextError, match=r"floating-point numbers|one noise_level per"):
            LEVELS.read(level)
