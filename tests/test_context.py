"""Reading, stacking and dropping conditions."""

import pytest
import torch

from tarflow import NULL_CLASS, Context, ContextError


def test_one_label_stands_for_the_whole_batch():
    for label in (2, torch.tensor(2)):
        assert Context.of(label, 3, "cpu").label.tolist() == [2, 2, 2]


def test_a_context_passes_through():
    context = Context(torch.tensor([0, 1]), torch.tensor([0.5, 1.0]))
    read = Context.of(context, 2, "cpu")
    assert torch.equal(read.label, context.label)
    assert torch.equal(read.temperature, context.temperature)


def test_nothing_is_read_as_no_condition():
    assert Context.of(None, 3, "cpu") == Context()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_wrong_number_of_labels_is_refused(batch):
    with pytest.raises(ContextError, match=rf"label has shape \(2,\).*{batch} examples"):
        Context.of(torch.tensor([0, 1]), batch, "cpu")


def test_a_wrong_number_of_temperatures_is_refused():
    with pytest.raises(ContextError, match="temperature"):
        Context.of(Context(temperature=torch.ones(2)), 3, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_that_are_no_integers_are_refused(dtype):
    with pytest.raises(ContextError, match="labels are integers"):
        Context.of(torch.ones(2, dtype=dtype), 2, "cpu")


def test_the_null_context_is_stacked_under_the_conditional_one():
    stacked = Context(torch.tensor([2, 0])).with_null(torch.zeros(2), temperature=0.25)
    assert stacked.label.tolist() == [2, 0, NULL_CLASS, NULL_CLASS]
    assert stacked.temperature.tolist() == [1, 1, 0.25, 0.25]


def test_the_temperature_of_the_conditional_prediction_survives_stacking():
    context = Context(torch.tensor([2, 0]), torch.tensor([0.5, 2.0]))
    for temperature in (1.0, 0.25):
        stacked = context.with_null(torch.zeros(2), temperature)
        assert stacked.temperature.tolist()[:2] == [0.5, 2.0]


def test_labels_are_dropped_at_the_rate_and_reproducibly():
    context = Context(torch.arange(10_000) % 7)
    dropped, again = (
        context.drop_label(0.1, torch.Generator().manual_seed(5)).label for _ in range(2)
    )
    gone = dropped == NULL_CLASS
    assert abs(gone.float().mean() - 0.1) < 0.015  # five standard errors
    assert torch.equal(dropped[~gone], context.label[~gone])
    assert torch.equal(dropped, again)


def test_dropping_leaves_the_original_alone():
    label = torch.arange(5)
    assert Context(label).drop_label(1.0).label.eq(NULL_CLASS).all()
    assert label.tolist() == [0, 1, 2, 3, 4]


def test_there_may_be_nothing_to_drop():
    assert Context().drop_label(0.5) == Context()
    assert Context(torch.arange(5)).drop_label(0.0).label.tolist() == [0, 1, 2, 3, 4]


def test_dropping_keeps_the_other_conditions():
    context = Context(torch.arange(2), torch.tensor([0.5, 2.0])).drop_label(1.0)
    assert context.temperature.tolist() == [0.5, 2.0]
