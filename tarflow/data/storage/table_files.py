"""Files that hold tables: .csv, .parquet, .npz and .npy, by column."""

import csv
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from tarflow.arguments import shown
from tarflow.data.storage.array_files import load_arrays
from tarflow.data.table_column import is_number
from tarflow.errors import DataError

Columns = dict[str, Shaped[np.ndarray, "..."]]
"""The columns of a table by name: texts of a .csv file as they stand there."""

PARTS = ("train", "val", "test")
"""The names of arrays that are parts of a table."""


def read_table(path: Path, delimiter: str = ",") -> dict[str, Columns]:
    """The columns of each part of a file; all are those of `train` where it has no parts.

    Raises:
        DataError: The file is missing, of another kind, or cannot be read; or columns differ in
            length, have no name, or the same.
    """
    if not path.is_file() or path.suffix not in READERS:
        problem = f"{path} is none of these" if path.is_file() else f"there is no file {path}"
        raise DataError(f"{problem}: pass the path of a {', '.join(READERS)} file")
    found = READERS[path.suffix](path, delimiter)
    for part, columns in found.items():
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns of {path} differ in length: {shown(lengths, 300)}")
        if not any(lengths.values()):
            raise DataError(f"the {part} part of {path} is empty: a table has columns and rows")
    return found


def join_parts(parts: Mapping[str, Columns]) -> Columns:
    """The columns of all parts below each other.

    Raises:
        DataError: A part has other columns than the first.
    """
    (first, expected), *others = parts.items()
    for part, columns in others:
        lacks, adds = expected.keys() - columns.keys(), columns.keys() - expected.keys()
        if lacks or adds:
            raise DataError(
                f"the {part} part has other columns than the {first} part: it lacks"
                f" {_listed(lacks)} and adds {_listed(adds)}; give all parts the same"
            )
    return {
        name: np.concatenate([_mixed(columns[name]) for columns in parts.values()])
        if others
        else values
        for name, values in expected.items()
    }


def _mixed(values: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
    """Values that keep their kind beside those of another part."""
    return values if np.issubdtype(values.dtype, np.number) else values.astype(object)


def _listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(map(repr, sorted(names))) or "none"


def _named(path: Path, names: Iterable[str], values: Iterable[np.ndarray]) -> Columns:
    """Columns by name.

    Raises:
        DataError: One has no name, or two have the same.
    """
    columns: Columns = {}
    for place, (name, each) in enumerate(zip(names, values, strict=True)):
        if not name.strip():
            raise DataError(f"column {place} of {path} has no name: give it one")
        if name in columns:
            raise DataError(f"{path} has two columns {name!r}: give them different names")
        columns[name] = each
    return columns


def _read_csv(path: Path, delimiter: str) -> dict[str, Columns]:
    """Read a line of names, and numbers or texts below it."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = filter(None, csv.reader(file, delimiter=delimiter))
            names = next(rows, [])
            _check_names(path, names)
            columns = _read_numbers(path, delimiter)
            if len(columns) != len(names):
                columns = _read_texts(path, delimiter, names, rows)
    except (OSError, UnicodeDecodeError, csv.Error, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return {"train": _named(path, names, columns)}


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a file without a first line of names."""
    if not names:
        raise DataError(f"{path} is empty: a table has a line of names, and rows")
    if all(is_number(name) for name in names):
        raise DataError(
            f"the first line of {path} holds numbers, {shown(names)}: put a line with the names of"
            " the columns before it"
        )


def _read_numbers(path: Path, delimiter: str) -> Shaped[np.ndarray, "columns rows"]:
    """The columns of a file of numbers alone, which NumPy reads; of others, none.

    It takes a twentieth of the time of texts that are made numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of no rows, told of later
            options = {"delimiter": delimiter, "skiprows": 1, "comments": None, "ndmin": 2}
            return np.loadtxt(path, **options).T
    except ValueError:
        return np.empty((0, 0))


def _read_texts(
    path: Path, delimiter: str, names: Sequence[str], rows: Iterable[Sequence[str]]
) -> list[np.ndarray]:
    """The columns of the rest of a file as texts."""
    columns: list[list[str]] = [[] for _ in names]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise DataError(
                f"row {number} of {path} has {len(row)} cells, and there are {len(names)} names,"
                f" {shown(names)}: mend it, or choose another delimiter (it is {delimiter!r})"
            )
        for column, text in zip(columns, row, strict=True):
            column.append(sys.intern(text))
    return [np.array(column, dtype=object) for column in columns]


def _read_parquet(path: Path, delimiter: str) -> dict[str, Columns]:
    """Read a file of Arrow's."""
    try:
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow to be read: pip install 'tarflow[tables]', or write the table"
            " as .csv or .npz"
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
        values = [_of_arrow(column) for column in table.columns]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return {"train": _named(path, table.column_names, values)}


def _of_arrow(column: Any) -> np.ndarray:
    """The values of a column of Arrow's; None where one is missing."""
    if column.null_count == 0 and str(column.type) in PLAIN:
        return column.to_numpy()
    return np.fromiter(column.to_pylist(), dtype=object, count=len(column))


PLAIN = (
    *("bool", "float", "double", "halffloat"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
"""Types of Arrow's that NumPy has as well."""


def _read_arrays(path: Path, delimiter: str) -> dict[str, Columns]:
    """Read one array of rows, one for each part, or one for each column."""
    arrays = load_arrays(path)
    if path.suffix == ".npy":
        arrays = {"x": arrays["images"]}
    named = any(arrays[name].ndim == 2 for name in ("x", "train") if name in arrays)
    names = arrays.pop("names", None) if named else None
    parts = {part: arrays[part] for part in PARTS if part in arrays}
    if set(arrays) == {"x"} and arrays["x"].ndim == 2:
        parts = {"train": arrays["x"]}
    if not parts:
        wrong = [name for name, values in arrays.items() if values.ndim != 1]
        if wrong:
            raise DataError(
                f"{path} holds the arrays {_listed(arrays)}, and {wrong[0]} is of shape"
                f" {arrays[wrong[0]].shape}: give x, or train (and val, test), with rows and"
                " columns, or an array of one axis for each column"
            )
        return {"train": _named(path, arrays, arrays.values())}
    if "train" not in parts or len(parts) < len(arrays):
        raise DataError(
            f"{path} holds the arrays {_listed(arrays)}: beside train there may be val, test, and"
            " names of the columns"
        )
    return {part: _rows(path, part, values, names) for part, values in parts.items()}


def _rows(path: Path, part: str, values: np.ndarray, names: np.ndarray | None) -> Columns:
    """The columns of an array of rows, called x0, x1, ... where they have no names."""
    if values.ndim != 2:
        raise DataError(f"{part} in {path} has shape {values.shape}: expected (rows, columns)")
    count = values.shape[1]
    given = [f"x{place}" for place in range(count)] if names is None else names.tolist()
    if len(given) != count:
        raise DataError(f"{path} has {len(given)} names for {count} columns of {part}")
    return _named(path, map(str, given), values.T)


READERS: dict[str, Callable[[Path, str], dict[str, Columns]]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_arrays,
    ".npy": _read_arrays,
}
"""What reads each kind of file."""
