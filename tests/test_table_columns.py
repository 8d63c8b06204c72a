"""Columns of tables within flows: categories, names, and probabilities of integers."""

import itertools

import numpy as np
import pytest
import torch

import tarflow
from tarflow import (
    Categories,
    ConfigurationError,
    ExampleSeeds,
    Integers,
    NoNoise,
    Pixels,
    Real,
    TableColumns,
    VectorFlow,
)

from .models import TINY, randomized

EYES = Categories(["blue", "brown", "green"])


def mixed_flow() -> VectorFlow:
    """A flow of a real number, a category and an integer."""
    names, supports = ["height", "eyes", "children"], [Real(), EYES, Integers()]
    flow = VectorFlow(3, supports, names=names, noise=NoNoise(), **TINY)
    return randomized(flow, 0.1).eval()


def test_categories_are_the_places_of_their_names():
    x = torch.tensor([[0.0], [2.0], [3.0], [-1.0], [0.5]])
    assert EYES.holds(x).tolist() == [True, True, False, False, False]
    assert EYES.fold(torch.tensor([[0.2], [2.999], [3.1]])).tolist() == [[0], [2], [2]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "give two or more"),
        (["a", "b", "a"], "'a' twice"),
        ("ab", "give a list of names"),
    ],
)
def test_wrong_names_of_categories_are_refused(names, message):
    with pytest.raises(ConfigurationError, match=message):
        Categories(names)


def test_probabilities_of_a_small_grid_sum_to_one():
    supports = [Integers(0, 2), EYES]
    flow = randomized(VectorFlow(2, supports, names=["n", "eyes"], **TINY), 0.1).double().eval()
    grid = torch.tensor([*itertools.product(range(3), range(3))], dtype=torch.float64)
    flow.standardize(grid)
    with torch.no_grad():
        probabilities = flow.log_prob(grid).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=0.02)
    assert float(probabilities.max() / probabilities.min()) > 1.1


def test_held_out_values_are_judged_as_cells_and_those_of_training_are_points():
    flow = mixed_flow()
    stored = torch.tensor([[1.5, 2.0, 3.0], [1.7, 0.0, 0.0]])
    points, _ = flow.observe(stored, source=ExampleSeeds(0, range(2)))
    assert torch.equal(points[:, 0], stored[:, 0])
    assert ((points - stored)[:, 1:] > 0).all()
    judged, context = flow.held_out(stored)
    assert torch.equal(judged, stored)
    assert flow.log_prob(judged, context).isfinite().all()


def test_samples_become_a_table_of_the_same_columns():
    flow = mixed_flow()
    table = flow.codec.table(flow.sample(20))
    assert [*table] == ["height", "eyes", "children"]
    assert [column.dtype for column in table.values()] == [np.float32, object, np.int64]
    assert set(table["eyes"]) <= set(EYES.names)
    assert (table["children"] >= 0).all()


def test_what_is_not_finite_has_no_name():
    columns = TableColumns(["n", "eyes"], [Integers(), EYES])
    table = columns.table(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]))
    assert table["eyes"].tolist() == ["", "brown"]
    assert np.isnan(table["n"]).tolist() == [False, True]


def test_names_are_kept_with_the_weights(tmp_path):
    flow = mixed_flow()
    flow.save_pretrained(tmp_path)
    again = tarflow.load(tmp_path)
    assert again.codec == flow.codec
    assert again.codec.each == {"height": Real(), "eyes": EYES, "children": Integers()}
    x = flow.sample(3)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))


def test_a_flow_without_names_is_written_as_before(tmp_path):
    VectorFlow(2, **TINY).save_pretrained(tmp_path)
    assert '"names"' not in (tmp_path / "config.json").read_text()
    assert tarflow.load(tmp_path).codec is None


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a"], "supports of 2 columns, but there are 1"), (["a", "a"], "'a' twice")],
)
def test_there_is_a_name_for_each_column(names, message):
    with pytest.raises(ConfigurationError, match=message):
        VectorFlow(2, [Real(), Integers()], names=names, **TINY)


def test_columns_tell_in_what_they_differ():
    columns = TableColumns(["n", "eyes"], [Integers(), EYES])
    others = TableColumns(["n", "eyes"], [Real(), EYES])
    differing = [what for what, own, theirs in columns.compared(others) if own != theirs]
    assert differing == ["column 'n' within"]
    assert next(columns.compared(Pixels()))[1:] == (["n", "eyes"], [])
    with pytest.raises(ConfigurationError, match="a table of 2 columns has no pictures"):
        columns.to_bytes(torch.zeros(1, 2))
