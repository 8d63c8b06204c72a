"""Choices of classes, and samples that do not depend on the batch they were drawn in."""

import pytest
import torch

from tarflow import ConfigurationError, ContextError, LinearGuidance, Sequential
from tarflow.sampling.drawing import (
    batches_of,
    in_turn,
    read_classes,
    sample_batches,
)

from .memory import limit_memory
from .models import tiny_flow


def labels_of(choice, num_samples, num_classes):
    """A label for each of the first samples, by a choice of classes."""
    classes = read_classes(choice, num_classes)
    return None if classes is None else in_turn(classes, range(num_samples))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("all", [0, 1, 2, 0, 1, 2, 0]),
        (1, [1, 1, 1, 1, 1, 1, 1]),
        (0, [0, 0, 0, 0, 0, 0, 0]),
        ([2], [2, 2, 2, 2, 2, 2, 2]),
        ([2, 0], [2, 0, 2, 0, 2, 0, 2]),
        ((1, 1, 2), [1, 1, 2, 1, 1, 2, 1]),
        (list(range(3)) * 3, [0, 1, 2, 0, 1, 2, 0]),
    ],
)
def test_choice_of_classes(choice, expected):
    label = labels_of(choice, 7, 3)
    assert label.dtype == torch.int64
    assert label.tolist() == expected


@pytest.mark.parametrize("choice", ["none", -1])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_no_class(choice, num_classes):
    assert labels_of(choice, 7, num_classes) is None


def test_all_classes_of_a_flow_without_classes():
    assert labels_of("all", 7, 0) is None


def test_labels_of_no_samples():
    assert labels_of("all", 0, 3).tolist() == []


@pytest.mark.parametrize("choice", [3, -2, [0, 3], [-1], [0, -1], []])
def test_unknown_class(choice):
    with pytest.raises(ContextError, match=r"label=.*: this model knows 0 \.\.\. 2") as caught:
        labels_of(choice, 7, 3)
    assert f"label={choice}:" in str(caught.value)


@pytest.mark.parametrize("choice", [0, [0]])
def test_class_of_a_flow_without_classes(choice):
    with pytest.raises(ContextError, match="this model knows no classes"):
        labels_of(choice, 7, 0)


@pytest.mark.parametrize("choice", ["every", "", "1", "cat"])
def test_unknown_word(choice):
    with pytest.raises(ContextError, match=f"label={choice} is unknown: give all, none, a class"):
        labels_of(choice, 7, 3)


def draw(flow, num_samples=7, label=None, seed=0, batch_size=7, guidance=None):
    """All samples, the labels they came with, and the sizes of the batches."""
    batches = list(sample_batches(flow, num_samples, label, seed, batch_size, guidance=guidance))
    labels = [part for _, part in batches]
    joined = None if labels[0] is None else torch.cat(labels)
    return torch.cat([x for x, _ in batches]), joined, [len(x) for x, _ in batches]


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (50, [7])])
@pytest.mark.parametrize("guidance", [None, LinearGuidance(1.5)])
def test_samples_do_not_depend_on_the_batch_size(batch_size, sizes, guidance):
    flow, label = tiny_flow(num_classes=3), labels_of("all", 7, 3)
    expected, _, _ = draw(flow, label=label, guidance=guidance)
    x, labels, found = draw(flow, label=label, batch_size=batch_size, guidance=guidance)
    assert found == sizes
    assert torch.equal(labels, label)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)
    assert (expected[0] - expected[3]).abs().max() > 0.1  # of the same class


def test_samples_without_labels():
    for flow in (tiny_flow(), tiny_flow(num_classes=3)):
        expected, labels, _ = draw(flow)
        assert labels is None
        x, _, _ = draw(flow, batch_size=2)
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


def test_more_samples_begin_with_the_same_ones():
    flow = tiny_flow()
    torch.testing.assert_close(draw(flow, 9)[0][:7], draw(flow)[0], rtol=0, atol=1e-5)


def test_seeds_differ_and_repeat(flow):
    assert torch.equal(draw(flow, seed=1)[0], draw(flow, seed=1)[0])
    differences = draw(flow, seed=1)[0][:, None] - draw(flow, seed=2)[0]
    assert differences.abs().amax(dim=(2, 3, 4)).min() > 0.5


def test_label_and_guidance_reach_the_flow(flow):
    label = labels_of("all", 7, 3)
    plain, _, _ = draw(flow, label=label)
    guided, _, _ = draw(flow, label=label, guidance=LinearGuidance(9.0))
    assert (plain - draw(flow)[0]).abs().max() > 1e-3
    assert (plain - guided).abs().max() > 1e-3


@pytest.mark.parametrize(("num_samples", "batch_size"), [(0, 3), (3, 0)])
def test_nothing_to_draw_is_refused(flow, num_samples, batch_size):
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        next(sample_batches(flow, num_samples, None, 0, batch_size))


def test_memory_that_runs_out_changes_no_sample(flow):
    label = labels_of("all", 7, 3)
    expected, _, _ = draw(flow, label=label, batch_size=4)
    memory = limit_memory(flow, 2)
    with pytest.warns(RuntimeWarning, match="going on with 2 examples at a time") as caught:
        x, _, sizes = draw(flow, label=label, batch_size=4)
    torch.testing.assert_close(x, expected)
    assert sizes == [4, 3]
    assert memory.asked == [4, 2, 2, 2, 1]
    assert len(caught) == 1


def test_options_reach_the_flow(flow):
    class Half(Sequential):
        def __call__(self, predict, z):
            return super().__call__(predict, z / 2)

    [(x, _)] = sample_batches(flow, 3, None, 0, 3, decoder=Half())
    [(plain, _)] = sample_batches(flow, 3, None, 0, 3)
    assert (x - plain).abs().max() > 0.1


def test_classes_are_those_that_labels_go_round():
    assert read_classes("all", 3).tolist() == [0, 1, 2]
    assert read_classes([2, 0], 3).tolist() == [2, 0]
    assert read_classes(1, 3).tolist() == [1]
    assert read_classes("none", 3) is None
    classes = read_classes([2, 0, 1], 3)
    assert in_turn(classes, range(100, 107)).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_classes_by_name():
    names = ("cats", "dogs", "2")
    assert read_classes("dogs", 3, names).tolist() == [1]
    assert read_classes(["2", "cats", 1], 3, names).tolist() == [2, 0, 1]
    assert read_classes(2, 3, names).tolist() == [2]
    assert read_classes("all", 3, names).tolist() == [0, 1, 2]
    for wrong in ("cows", ["cats", "cows"], "Cats"):
        knows = r"is unknown: .*; this model knows 0 \.\.\. 2 \(cats, dogs, 2\)"
        with pytest.raises(ContextError, match=knows):
            read_classes(wrong, 3, names)
    with pytest.raises(ContextError, match=r"label=3: this model knows 0 \.\.\. 2 \(cats"):
        read_classes(3, 3, names)
    with pytest.raises(ContextError, match=r"this model knows 0 \.\.\. 999 \(name0, .* \.\.\.$"):
        read_classes("cows", 1000, [f"name{index}" for index in range(1000)])


def test_batches_cover_every_sample_once():
    assert batches_of(7, 3) == [range(3), range(3, 6), range(6, 7)]
