"""The tables of the masked autoregressive flow paper: small ones, in the files' real formats."""

import pickle

import numpy as np
import pytest
import torch

from tarflow import Real
from tarflow.data import maf_table
from tarflow.data.sources.maf_table import MAF_TABLES
from tarflow.errors import DataError

SMALL = {"check_counts": False}


@pytest.fixture
def source():
    return np.random.default_rng(0)


def sizes(data):
    return [len(part) for part in data.parts.values()]


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(values, dict):
        np.savez(path, **values)
    else:
        np.save(path, values)


def known(data):
    """The rows by whose moments columns are standardized."""
    return torch.cat([data.rows["train"], data.rows["val"]])


def test_power_loses_two_columns_and_fills_its_steps(tmp_path, source):
    values = source.integers(0, 5, (200, 8)).astype(float)
    values[:, 1], values[:, 3] = 0.0, 1.0  # constant columns would show as NaN
    save(tmp_path / "power/data.npy", values)
    data = maf_table("power", tmp_path, **SMALL)
    assert sizes(data) == [162, 18, 20]
    assert data.columns.names[:2] == ("active_power", "voltage")
    assert data.columns.names[-1] == "minute"
    rows = known(data)
    assert rows.mean(dim=0).abs().max() < 1e-5
    assert (rows.std(dim=0, correction=0) - 1).abs().max() < 1e-5
    assert all(len(column.unique()) == len(column) for column in rows.T)
    narrow, wide = rows[:, 0].sort().values.diff().max(), rows[:, -1].sort().values.diff().max()
    assert narrow > 5 * wide  # noise of a thousandth of a step, and of a whole one
    again = maf_table("power", tmp_path, **SMALL)
    assert torch.equal(again.rows["test"], data.rows["test"])


def test_minutes_with_noise_of_their_own_get_no_more(tmp_path, source):
    values = source.uniform(size=(100, 8))
    save(tmp_path / "power/data.npy", values)
    rows = torch.cat([*maf_table("power", tmp_path, **SMALL).rows.values()])[:, -1].double()
    given = torch.from_numpy(values[:, -1])
    correlated = torch.corrcoef(torch.stack([rows.sort().values, given.sort().values]))[0, 1]
    assert correlated > 1 - 1e-9


def test_gas_loses_what_correlates(tmp_path, source):
    sensors = source.normal(size=(150, 3))
    columns = {"Time": np.arange(150.0), "Meth": sensors[:, 0], "Eth": sensors[:, 1]}
    columns |= {f"s{n}": sensors[:, n] for n in range(3)}
    columns |= {"twin": sensors[:, 0] + 0.01 * sensors[:, 1]}
    save(tmp_path / "gas/ethylene_CO.npz", columns)
    data = maf_table("gas", tmp_path, **SMALL)
    assert data.columns.names == ("s1", "s2", "twin")
    assert sizes(data) == [122, 13, 15]
    everything = torch.cat([*data.rows.values()])
    expected = (sensors[:, 2] - sensors[:, 2].mean()) / sensors[:, 2].std()
    np.testing.assert_allclose(everything[:, 1], expected, rtol=1e-5, atol=1e-6)


def test_a_pickle_is_not_loaded(tmp_path):
    (tmp_path / "gas").mkdir()
    (tmp_path / "gas/ethylene_CO.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match=r"pickles are never loaded, .*numpy\.savez"):
        maf_table("gas", tmp_path)


def test_hepmass_keeps_one_class_and_no_column_that_repeats(tmp_path, source):
    (tmp_path / "hepmass").mkdir()
    for name, extra in (("train", 0), ("test", 1)):
        values = source.normal(size=(120, 4 + extra))
        values[:, 0] = np.arange(120) % 2
        values[:, 2] = np.maximum(values[:, 2], 0.0)  # half of it at the least value
        np.savetxt(
            tmp_path / f"hepmass/1000_{name}.csv",
            values,
            delimiter=",",
            header="label,f0,f1,f2",
            fmt="%.10e",
        )
    data = maf_table("hepmass", tmp_path, **SMALL)
    assert data.columns.names == ("f0", "f2")
    assert sizes(data) == [54, 6, 60]
    assert known(data).mean(dim=0).abs().max() < 1e-5


def test_miniboone_and_patches_come_as_they_are(tmp_path, source):
    values = source.normal(3.0, 2.0, size=(100, 5))
    save(tmp_path / "miniboone/data.npy", values)
    data = maf_table("miniboone", tmp_path, **SMALL)
    assert sizes(data) == [81, 9, 10]
    mean, deviation = values[:90].mean(axis=0), values[:90].std(axis=0)
    np.testing.assert_allclose(data.rows["test"], (values[90:] - mean) / deviation, rtol=1e-4)
    parts = {
        name: source.normal(size=(n, 3)) for name, n in (("train", 9), ("val", 4), ("test", 5))
    }
    save(tmp_path / "BSDS300/BSDS300.npz", parts)
    data = maf_table("bsds300", tmp_path, **SMALL)
    np.testing.assert_array_equal(data.rows["val"], parts["val"].astype(np.float32))
    assert set(data.columns.each.values()) == {Real()}


def test_other_shapes_than_the_published_ones_are_refused(tmp_path, source):
    save(tmp_path / "miniboone/data.npy", source.normal(size=(100, 5)))
    with pytest.raises(DataError, match=r"'train': \(81, 5\).* published are .*\(29556, 43\)"):
        maf_table("miniboone", tmp_path)
    save(tmp_path / "power/data.npy", source.normal(size=(100, 9)))
    with pytest.raises(DataError, match="has 9 columns, and the published file 8"):
        maf_table("power", tmp_path, **SMALL)
    values = source.normal(size=(100, 5))
    values[3, 2] = np.nan
    save(tmp_path / "miniboone/data.npy", values)
    with pytest.raises(DataError, match="missing or infinite"):
        maf_table("miniboone", tmp_path, **SMALL)


@pytest.mark.parametrize("name", MAF_TABLES)
def test_a_missing_file_is_told_of_with_where_to_get_it(tmp_path, name):
    with pytest.raises(DataError, match=r"there is no file .*: (unpack|pickles|convert)"):
        maf_table(name, tmp_path)
    with pytest.raises(DataError, match="name 'wine' is unknown: choose power, gas"):
        maf_table("wine", tmp_path)


def test_counts_are_tenths_of_the_published_numbers_of_rows():
    """Whole tenths, rounded down: first of all rows, then of those that are left."""
    for name in ("power", "gas", "miniboone"):
        train, validation, test = MAF_TABLES[name].counts
        assert test == int(0.1 * (train + validation + test))
        assert validation == int(0.1 * (train + validation))
