"""Reading contexts of named parts, and what may be done to every part."""

import pickle

import pytest
import torch

from tarflow import Context, ContextError


def test_one_label_stands_for_the_whole_batch():
    for label in (2, torch.tensor(2)):
        assert Context.of(label, 3, "cpu").label.tolist() == [2, 2, 2]


def test_a_context_passes_through():
    context = Context(torch.tensor([0, 1]), torch.tensor([0.5, 1.0]), vector=torch.rand(2, 5))
    read = Context.of(context, 2, "cpu")
    assert list(read) == ["label", "temperature", "vector"]
    for name in context:
        assert torch.equal(read[name], context[name])


def test_parts_are_read_by_name_from_a_mapping():
    read = Context.of({"label": [1, 2], "level": 0.5, "absent": None}, 2, "cpu")
    assert read.label.tolist() == [1, 2]
    assert read["level"].tolist() == [0.5, 0.5]
    assert "absent" not in read


def test_nothing_is_read_as_no_condition():
    assert list(Context.of(None, 3, "cpu")) == list(Context()) == []


@pytest.mark.parametrize("batch", [1, 3])
def test_a_wrong_number_of_labels_is_refused(batch):
    with pytest.raises(ContextError, match=rf"label has shape \(2,\).*{batch} examples"):
        Context.of(torch.tensor([0, 1]), batch, "cpu")


def test_a_wrong_number_of_rows_is_refused_for_any_part():
    for name in ("temperature", "vector"):
        with pytest.raises(ContextError, match=name):
            Context.of({name: torch.ones(2, 4)}, 3, "cpu")


def test_what_is_not_numbers_is_refused_by_name():
    with pytest.raises(ContextError, match="labels are integers, not 'cats'"):
        Context.of("cats", 3, "cpu")
    with pytest.raises(ContextError, match="vector is not a tensor but 'cats'"):
        Context.of({"vector": "cats"}, 3, "cpu")


def test_every_part_is_mapped_joined_and_updated_whatever_its_name():
    context = Context(torch.tensor([0, 1]), depth=torch.rand(2, 3), level=torch.rand(2))
    rows = context.map(lambda part: part[:1])
    assert [tuple(rows[name].shape) for name in rows] == [(1,), (1, 3), (1,)]
    both = rows.cat(context)
    assert torch.equal(both["depth"], torch.cat([context["depth"][:1], context["depth"]]))
    changed = context.updated(level=None, label=torch.tensor([5, 5]))
    assert list(changed) == ["label", "depth"]
    assert changed.label.tolist() == [5, 5]
    assert context.label.tolist() == [0, 1]


def test_every_part_moves_and_survives_pickling():
    context = Context(torch.tensor([0, 1]), depth=torch.rand(2, 3))
    moved = context.to("meta")
    assert all(moved[name].is_meta for name in moved)
    again = pickle.loads(pickle.dumps(context))
    assert torch.equal(again["depth"], context["depth"])
