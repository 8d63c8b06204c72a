"""Tables from files: what their columns become, and everything that is refused by its column."""

import importlib.util

import numpy as np
import pytest
import torch

from tarflow import (
    Categories,
    ConfigurationError,
    HalfLine,
    Integers,
    NoNoise,
    Pixels,
    Real,
    Simplex,
)
from tarflow.data import Rows, TableData, TableDataModule, table
from tarflow.errors import DataError
from tarflow.evaluation.metrics import check_fit
from tarflow.flows.vector_flow import VectorFlow
from tests.models import TINY

COLUMNS = {
    "height": np.linspace(1.5, 1.9, 40),
    "age": np.arange(40) % 7 + 18,
    "city": np.array(["Bern", "Rome", "Oslo", "Rome"] * 10),
    "smokes": np.arange(40) % 3 == 0,
}


def write(path, columns):
    """Write columns as a file of any kind."""
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            arrow.table({name: [*each.tolist()] for name, each in columns.items()}), path
        )
    else:
        lists = [each.tolist() for each in columns.values()]
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*lists, strict=True))]
        path.write_text("\n".join(lines) + "\n")
    return path


def changed(**columns):
    """The columns with some of them changed or added; those that are None are left out."""
    return {name: each for name, each in {**COLUMNS, **columns}.items() if each is not None}


@pytest.fixture
def people(tmp_path):
    return write(tmp_path / "people.csv", COLUMNS)


def all_rows(data: TableData) -> torch.Tensor:
    return torch.cat([*data.rows.values()])


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_files_of_all_kinds_give_the_same_data(tmp_path, kind):
    data = table(write(tmp_path / f"people.{kind}", COLUMNS))
    assert {name: len(part) for name, part in data.parts.items()} == {
        "train": 32,
        "val": 4,
        "test": 4,
    }
    assert data.columns.each == {
        "height": Real(),
        "age": Integers(),
        "city": Categories(["Bern", "Oslo", "Rome"]),
        "smokes": Categories(["False", "True"]),
    }
    assert data.determined.keys() == {"dim", "names", "supports"}
    assert data.name == f"{tmp_path.resolve()}/people.{kind}, random split, seed 0"
    rows = all_rows(data)
    rows = rows[rows[:, 0].argsort()]
    expected = [
        COLUMNS["height"],
        COLUMNS["age"],
        [{"Bern": 0, "Oslo": 1, "Rome": 2}[city] for city in COLUMNS["city"]],
        COLUMNS["smokes"],
    ]
    np.testing.assert_array_equal(rows, np.stack(expected, axis=1).astype(np.float32))


def test_rows_become_the_table_again(people):
    data = table(people)
    back = data.columns.table(all_rows(data))
    order = np.argsort(back["height"])
    for name, given in COLUMNS.items():
        expected = given.astype(str if back[name].dtype == object else back[name].dtype)
        np.testing.assert_array_equal(back[name][order], expected)


def test_a_split_is_always_the_same_and_may_be_given(people, tmp_path):
    first, second = table(people), table(people)
    assert torch.equal(first.rows["test"], second.rows["test"])
    other = write(tmp_path / "other.csv", {name: each[:8] for name, each in COLUMNS.items()})
    given = table(people, test=other, validation=other)
    assert {name: len(part) for name, part in given.parts.items()} == {
        "train": 40,
        "val": 8,
        "test": 8,
    }
    assert torch.equal(given.rows["test"], given.rows["train"][:8])
    assert given.name.endswith("split as given")
    assert table(people, validation_fraction=0.0).validation is None


def test_arrays_of_rows_have_parts_and_names(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 2))
    np.savez(tmp_path / "parts.npz", train=values, test=values[:5], names=["a", "b"])
    data = table(tmp_path / "parts.npz", validation_fraction=0.2)
    assert data.columns.names == ("a", "b")
    with pytest.raises(DataError, match=r"has a test part already: leave .*rows\.npy out"):
        table(tmp_path / "parts.npz", test=tmp_path / "rows.npy")
    assert {name: len(part) for name, part in data.parts.items()} == {
        "train": 24,
        "val": 6,
        "test": 5,
    }
    np.save(tmp_path / "rows.npy", values)
    np.savez(tmp_path / "rows.npz", x=values)
    for name in ("rows.npy", "rows.npz"):
        data = table(tmp_path / name)
        assert data.columns.names == ("x0", "x1")
        assert sorted(all_rows(data)[:, 0]) == sorted(values[:, 0].astype(np.float32))


def test_columns_are_chosen_and_kinds_are_overridden(people):
    supports = {"height": HalfLine()}
    data = table(people, columns=["age", "height"], supports=supports)
    assert data.columns.each == {"age": Integers(), "height": HalfLine()}
    data = table(people, exclude=["city"], categories=["age"], supports=supports)
    assert data.columns.each["age"] == Categories([*map(str, range(18, 25))])
    assert "city" not in data.columns.names
    codes = {"numbers": (np.array([7.0, 7.5, 8.0, 8.0] * 10), np.arange(40))}
    codes["texts"] = np.array(["7.0", "7.5", "08", "8"] * 10), COLUMNS["city"]
    for name, (code, other) in codes.items():
        path = write(people.with_name(f"{name}.csv"), {"code": code, "other": other})
        found = table(path, categories=["code"]).columns
        assert found.each["code"] == Categories(["7", "7.5", "8"])
    cities = ["Rome", "Bern", "Oslo", "Riga"]
    assert table(people, categories={"city": cities}).columns.each["city"] == Categories(cities)


def test_integers_are_bounded_where_the_training_part_is(tmp_path):
    below = np.arange(40) - 5
    data = table(write(tmp_path / "x.npz", {"a": below, "b": -below.astype(float)}))
    assert set(data.columns.each.values()) == {Integers(None)}
    assert table(write(tmp_path / "y.npz", {"a": below + 5})).columns.each == {"a": Integers()}


def test_rows_that_miss_values_are_left_out_if_asked(tmp_path):
    ages = COLUMNS["age"].astype(object)
    ages[[3, 5]] = "", "NA"
    path = write(tmp_path / "people.csv", changed(age=ages))
    with pytest.raises(DataError, match=r"column 'age' misses 2: .*exclude=.*missing=drop_rows"):
        table(path)
    data = table(path, missing="drop_rows")
    assert len(all_rows(data)) == 38
    assert data.name.endswith("without 2 rows that miss values")
    assert data.columns.each["age"] == Integers()


def test_redundant_columns_are_left_out_if_asked(tmp_path):
    more = changed(one=np.ones(40), twin=COLUMNS["age"].copy())
    path = write(tmp_path / "people.csv", more)
    data = table(path, redundant="drop")
    assert data.columns.names == tuple(COLUMNS)
    assert data.name.endswith("without one, twin")


REFUSED = {
    "constant": (changed(one=np.full(40, 2.5)), {}, r"'one' is constant, .*exclude=\[one\]"),
    "constant text": (changed(city=np.full(40, "Rome")), {}, "'city' is constant, 'Rome'"),
    "duplicate": (changed(years=COLUMNS["age"]), {}, "'years' holds the values of 'age'"),
    "infinite": (
        changed(height=np.where(np.arange(40) % 2, np.inf, 1.7)),
        {},
        "'height' .* infinite values",
    ),
    "mixed": (
        changed(age=np.array([*map(str, range(39)), "old"])),
        {},
        r"'age' holds 'old', in row 39, among numbers: .*categories=\[age\]",
    ),
    "many": (
        changed(city=np.array([f"city {n}" for n in range(40)])),
        {"max_categories": 10},
        "'city' holds .* different texts, .* max_categories is 10",
    ),
    "rare": (
        changed(city=np.array([f"city {n}" for n in range(40)])),
        {},
        r"'city' of the (val|test) part holds .*, which is not among its 32 categories",
    ),
    "large": (changed(age=np.arange(40) + 2**25), {}, "'age' holds integers up to 33554"),
    "coarse": (
        changed(height=1e6 + np.linspace(0, 1, 40)),
        {},
        "'height' varies by .* about 1e[+]06, .*: take the mean off",
    ),
    "negative": (
        {"a": np.where(np.arange(40) == 0, 0, 1 + np.arange(40))},
        {"supports": {"a": HalfLine()}},
        "'a' of the .* part holds 0, outside of HalfLine",
    ),
    "broken": (COLUMNS, {"integers": ["height"]}, "'height' of the train part holds .* Integers"),
    "not numbers": (COLUMNS, {"integers": ["city"]}, "'city' holds texts, such as"),
    "unknown": (COLUMNS, {"exclude": ["town"]}, "no column 'town': there are height, age"),
    "left out": (
        COLUMNS,
        {"exclude": ["age"], "integers": ["age"]},
        "'age' is left out, and yet",
    ),
    "nothing": (COLUMNS, {"columns": ["one"]}, "no column 'one'"),
    "none": (COLUMNS, {"exclude": [*COLUMNS]}, "no column is left: exclude fewer"),
    "all constant": (
        {"a": np.ones(40)},
        {"redundant": "drop"},
        "no column is left: a density needs one whose values differ",
    ),
    "several": (COLUMNS, {"supports": {"age": Simplex(2)}}, "'age' is one, and Simplex.* of 2"),
    "few": ({name: each[:3] for name, each in COLUMNS.items()}, {}, "3 training rows are too few"),
    "word": (COLUMNS, {"missing": "ignore"}, "missing 'ignore' is unknown: choose refuse or"),
    "other word": (COLUMNS, {"redundant": "keep"}, "redundant 'keep' is unknown: choose refuse"),
    "no test": (COLUMNS, {"test_fraction": 0.0}, "test_fraction 0 leaves no test examples"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_density_is_refused_by_its_column(tmp_path, name):
    columns, options, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        table(write(tmp_path / "table.csv", columns), **options)


TEXTS = {
    "": "is empty",
    "a,b\n": "empty",
    "1,2\n3,4\n": "the first line of .* holds numbers",
    "a,b\n1,2\n3\n": "row 1 of .* has 1 cells, and there are 2 names",
    "a,a\n1,2\n": "two columns 'a'",
    "a,\n1,2\n": "column 1 of .* has no name",
    "a;b\n1;2,5\n": "choose another delimiter",
}


@pytest.mark.parametrize("text", TEXTS)
def test_wrong_texts_are_refused(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=TEXTS[text]):
        table(tmp_path / "x.csv")


def test_a_delimiter_is_chosen(tmp_path):
    (tmp_path / "x.csv").write_text("a;b\n" + "".join(f"{n};{n * 1.5}\n" for n in range(1, 20)))
    assert table(tmp_path / "x.csv", delimiter=";").columns.each == {"a": Integers(), "b": Real()}


ARRAYS = {
    "length": ({"a": np.arange(5), "b": np.arange(4)}, "differ in length"),
    "axes": ({"a": np.zeros((5, 2, 2))}, "'a', and a is of shape"),
    "other": ({"train": np.zeros((5, 2)), "more": np.zeros(5)}, "beside train there may be"),
    "names": ({"train": np.zeros((5, 2)), "names": ["a"]}, "1 names for 2 columns"),
    "flat": ({"train": np.zeros(5)}, r"train in .* has shape \(5,\)"),
    "dates": ({"a": np.arange(9).astype("datetime64[D]")}, "column 'a' holds datetime64"),
    "parts": ({"train": np.zeros((5, 2)), "test": np.zeros((5, 3))}, "adds 'x2'"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_wrong_arrays_are_refused(tmp_path, name):
    arrays, message = ARRAYS[name]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        table(tmp_path / "x.npz")


def test_parts_with_other_columns_are_refused(people, tmp_path):
    other = write(tmp_path / "other.csv", changed(age=None, weight=np.arange(40)))
    with pytest.raises(DataError, match=r"test part .* lacks 'age' and adds 'weight'"):
        table(people, test=other)
    with pytest.raises(DataError, match=r"there is no file .*nowhere.csv"):
        table(tmp_path / "nowhere.csv")
    (tmp_path / "x.xlsx").write_text("")
    with pytest.raises(DataError, match=r"none of these: pass the path of a \.csv, \.parquet"):
        table(tmp_path / "x.xlsx")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_is_told_of(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"pip install 'tarflow\[tables\]'"):
        table(tmp_path / "x.parquet")


def test_a_small_table_is_one_batch(people):
    module = TableDataModule(table(people), batch_size=256)
    [batch] = module.train_dataloader()
    assert batch.x.shape == (32, 4)
    assert not batch.context.parts
    [batch] = module.test_dataloader()
    assert torch.equal(batch.x, module.data.rows["test"])


def test_a_flow_is_for_columns_of_its_own(people):
    data = table(people)
    flow = VectorFlow(**data.determined, noise=NoNoise(), **TINY)
    check_fit(flow, data)
    other = table(people, supports={"age": Real()})
    with pytest.raises(DataError, match=r"has column 'age' within Real.*made for Integers"):
        check_fit(flow, other)
    with pytest.raises(DataError, match="has the columns"):
        check_fit(flow, table(people, exclude=["age"]))


def test_a_table_has_columns_for_a_codec():
    part = Rows(torch.zeros(3, 2))
    with pytest.raises(ConfigurationError, match="it tells the columns"):
        TableData("x", part, None, part, Pixels())
