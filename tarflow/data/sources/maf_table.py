"""The five tables of the masked autoregressive flow paper (arXiv 1705.07057, appendix)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from tarflow.arguments import shown
from tarflow.data.storage.table_files import Columns, read_table
from tarflow.data.table_data import Rows, TableData
from tarflow.errors import DataError
from tarflow.flows.supports import Real
from tarflow.flows.table_columns import TableColumns
from tarflow.registry import register

Values = Float64[np.ndarray, "_ columns"]

SEED = 42
"""Of the order of rows, and of the noise on them."""

SHARE = 0.1
"""Of all rows for the test part, and of the others for the validation part; rounded down."""

POWER_NOISE = (1e-3, 1e-2, 1.0, 1.0, 1.0, 1.0)
"""The width of uniform noise that fills the steps in which each column of POWER was noted."""

CORRELATED = 0.98
"""Of two columns of GAS that correlate by more, one is left out."""

REPEATED = 5
"""Columns of HEPMASS whose least value comes more often are left out."""

PICKLE = (
    "pickles are never loaded, as that could run code. Where you trust the file, convert it, with"
    " pandas: import pandas, numpy; d = pandas.read_pickle('ethylene_CO.pickle');"
    " numpy.savez('ethylene_CO.npz', **{str(c): d[c].to_numpy() for c in d})"
)
HDF5 = (
    "convert it, with h5py: import h5py, numpy; f = h5py.File('BSDS300.hdf5');"
    " numpy.savez('BSDS300.npz', train=f['train'][:], val=f['validation'][:], test=f['test'][:])"
)


@dataclass(frozen=True)
class MafTable:
    """One of the tables: where it lies in the published archive, and what is to come out.

    Attributes:
        files: Its files below the archive's folder `data`.
        counts: Number of rows of the parts `train`, `val` and `test`.
        num_columns: Number of columns.
        read: Makes the names of the columns, and the standardized values of each part.
        hint: What to do where a file is missing.
    """

    files: tuple[str, ...]
    counts: tuple[int, int, int]
    num_columns: int
    read: Callable[..., tuple[list[str], dict[str, Values]]]
    hint: str = "unpack data.tar.gz, from zenodo.org/records/1161203"


@register
def maf_table(name: str, root: str | Path = "data/maf", check_counts: bool = True) -> TableData:
    """Prepare POWER, GAS, HEPMASS, MINIBOONE or BSDS300, as for the published numbers.

    Columns with repeated values are left out, noise fills the steps of those that were rounded,
    and columns are standardized: densities are those of standardized values, as published ones.
    Which rows are in which part of POWER follows from a seed that is this package's own.

    Args:
        name: `power`, `gas`, `hepmass`, `miniboone` or `bsds300`.
        root: The folder `data` of the published archive.
        check_counts: Whether to refuse other numbers of rows and columns than the published ones.

    Raises:
        DataError: A file is missing or something else than expected; says in what.
    """
    if name not in MAF_TABLES:
        raise DataError(f"name {shown(name)} is unknown: choose {', '.join(MAF_TABLES)}")
    table, folder = MAF_TABLES[name], Path(root).expanduser()
    paths = [folder / file for file in table.files]
    for path in paths:
        if not path.is_file():
            raise DataError(f"there is no file {path}: {table.hint}")
    names, parts = table.read(*paths)
    expected = {
        part: (count, table.num_columns)
        for part, count in zip(("train", "val", "test"), table.counts, strict=True)
    }
    found = {part: values.shape for part, values in parts.items()}
    if check_counts and found != expected:
        raise DataError(
            f"{name} in {folder} comes out as {found}, and published are {expected}: get the"
            " published files, or pass check_counts=False for others"
        )
    rows = {part: Rows(torch.from_numpy(each).float()) for part, each in parts.items()}
    told = f"{name.upper()} of arXiv 1705.07057, seed {SEED}, standardized"
    return TableData.of(told, rows, codec=TableColumns(names, Real()))


def _read_power(path: Path) -> tuple[list[str], dict[str, Values]]:
    """Household power: 8 columns, of which reactive power and intensity are left out."""
    names = ("active_power", "", "voltage", "", "sub_metering_1", "sub_metering_2")
    names = (*names, "sub_metering_3", "minute")
    values = _matrix(_columns(path), path, 8)
    kept = [place for place, name in enumerate(names) if name]
    source = np.random.default_rng(SEED)
    values = source.permutation(values)[:, kept]
    widths = np.array(POWER_NOISE)
    if (values[:, -1] % 1).any():  # the minutes have their noise already
        widths[-1] = 0.0
    values = values + widths * source.random(values.shape)
    return [names[place] for place in kept], _standardized(_divided(values))


def _read_gas(path: Path) -> tuple[list[str], dict[str, Values]]:
    """Gas sensors: without time and concentrations, and without correlated columns."""
    columns = {
        name: values
        for name, values in _columns(path).items()
        if name.lower() not in ("time", "meth", "eth", "co", "")
    }
    values = _matrix(columns, path)
    names = [*columns]
    while len(correlated := np.flatnonzero(_correlated(values).sum(axis=1) > 1)):
        values = np.delete(values, correlated[0], axis=1)
        names.pop(correlated[0])
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    return names, _divided(values)


def _correlated(values: Values) -> np.ndarray:
    """Which pairs of columns correlate, each with itself too."""
    return np.corrcoef(values, rowvar=False) > CORRELATED


def _read_hepmass(train: Path, test: Path) -> tuple[list[str], dict[str, Values]]:
    """Collisions with a particle, without the column of labels and those that repeat."""
    names, given = _read_collisions(train)
    _, held_out = _read_collisions(test)
    held_out = held_out[:, : given.shape[1]]  # the file has a column more
    counts = (given == given.min(axis=0)).sum(axis=0)
    kept = np.flatnonzero(counts <= REPEATED)
    train_rows, validation = _cut(given[:, kept])
    parts = {"train": train_rows, "val": validation, "test": held_out[:, kept]}
    return [names[place] for place in kept], _standardized(parts)


def _read_collisions(path: Path) -> tuple[list[str], Values]:
    """The features of the rows of class 1, in which a particle came up, and their names."""
    with path.open() as file:
        names = [name.strip("# \n") for name in file.readline().split(",")]
    try:
        values = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    names = [*names, *(f"f{place}" for place in range(len(names) - 1, values.shape[1] - 1))]
    return names[1:], values[values[:, 0] == 1, 1:]


def _read_miniboone(path: Path) -> tuple[list[str], dict[str, Values]]:
    """Electron neutrinos, which the archive holds without outliers and repeated columns."""
    columns = _columns(path)
    return [*columns], _standardized(_divided(_matrix(columns, path)))


def _read_bsds300(path: Path) -> tuple[list[str], dict[str, Values]]:
    """Patches of 8 x 8 pixels without their mean and the last pixel, as the archive holds them."""
    parts = read_table(path)
    return [*parts["train"]], {part: _matrix(columns, path) for part, columns in parts.items()}


def _columns(path: Path) -> Columns:
    """The columns of a file without parts."""
    return read_table(path)["train"]


def _matrix(columns: Columns, path: Path, count: int | None = None) -> Values:
    """The values of columns beside each other."""
    if count not in (None, len(columns)):
        raise DataError(f"{path} has {len(columns)} columns, and the published file {count}")
    try:
        values = np.stack([*columns.values()], axis=1).astype(np.float64)
    except ValueError as error:
        raise DataError(f"{path} holds something else than numbers: {error}") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds values that are missing or infinite")
    return values


def _cut(values: Values) -> tuple[Values, Values]:
    """Rows in their order: the first, and a share of them that are the last."""
    count = int(SHARE * len(values))
    return values[: len(values) - count], values[len(values) - count :]


def _divided(values: Values) -> dict[str, Values]:
    """The parts of rows in their order, the test part last."""
    others, test = _cut(values)
    train, validation = _cut(others)
    return {"train": train, "val": validation, "test": test}


def _standardized(parts: Mapping[str, Values]) -> dict[str, Values]:
    """Values by mean and deviation of all rows that are not for the test."""
    known = np.concatenate([parts["train"], parts["val"]])
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    return {part: (values - mean) / deviation for part, values in parts.items()}


MAF_TABLES = {
    "power": MafTable(("power/data.npy",), (1_659_917, 184_435, 204_928), 6, _read_power),
    "gas": MafTable(("gas/ethylene_CO.npz",), (852_174, 94_685, 105_206), 8, _read_gas, PICKLE),
    "hepmass": MafTable(
        ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
        (315_123, 35_013, 174_987),
        21,
        _read_hepmass,
    ),
    "miniboone": MafTable(("miniboone/data.npy",), (29_556, 3_284, 3_648), 43, _read_miniboone),
    "bsds300": MafTable(
        ("BSDS300/BSDS300.npz",), (1_000_000, 50_000, 250_000), 63, _read_bsds300, HDF5
    ),
}
"""All of them by name."""
