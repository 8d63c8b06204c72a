"""Rows of a table in a file of yours."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int

from tarflow.arguments import check_instance, shown
from tarflow.data.loading.splits import GIVEN_SPLIT, SEEDS, complete_parts
from tarflow.data.storage.table_files import Columns, join_parts, read_table
from tarflow.data.table_column import TableColumn
from tarflow.data.table_data import Rows, TableData
from tarflow.errors import DataError
from tarflow.flows.categories import Categories
from tarflow.flows.supports import Support
from tarflow.flows.table_columns import TableColumns
from tarflow.registry import register

RANDOM_SPLIT = f"random split, seed {SEEDS['test']}"

log = logging.getLogger(__name__)


@register
def table(
    path: str | Path,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    columns: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    integers: Sequence[str] = (),
    categories: Sequence[str] | Mapping[str, Sequence[str]] = (),
    supports: Mapping[str, Support] | None = None,
    missing: str = "refuse",
    redundant: str = "refuse",
    max_categories: int = 100,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    delimiter: str = ",",
) -> TableData:
    """Read a table: a .csv file with a line of names, a .parquet file, or arrays of NumPy.

    A .npz file holds an array for each column; or `x`, or `train` (and `val`, `test`), of rows and
    columns, and perhaps their `names`. A .npy file holds rows and columns.

    Whole numbers become `Integers`, other numbers `Real`, texts and truth values `Categories`, as
    the training part has them. What has no density is refused, by the name of its column.

    Args:
        path: The file.
        validation: One with rows to choose by; by default a fraction of the others.
        test: One with rows to report on, likewise.
        columns: Those to read, in this order; by default all.
        exclude: Those to leave out.
        integers: Columns of whole numbers that are to be `Integers`, whatever they look like.
        categories: Columns whose values are names, numbers too; with a list of the names for each
            where the training part may lack some.
        supports: Supports of columns by name, in place of those that are found.
        missing: What to do where values are missing: `refuse`, or `drop_rows`.
        redundant: What to do with constant columns, and with those that equal another: `refuse`,
            or `drop`.
        max_categories: Largest number of different texts of a column.
        validation_fraction: Fraction of the training rows that is set aside to choose by.
        test_fraction: Fraction of all rows that is held out, if there is no test part.
        delimiter: What stands between the cells of a .csv file.

    Raises:
        DataError: A file or a column cannot be used; names it, and tells what to do.
    """
    for name, value, allowed in (
        ("missing", missing, ("refuse", "drop_rows")),
        ("redundant", redundant, ("refuse", "drop")),
    ):
        if value not in allowed:
            raise DataError(f"{name} {shown(value)} is unknown: choose {' or '.join(allowed)}")
    file = Path(path).expanduser()
    given = read_table(file, delimiter)
    for part, other in {"val": validation, "test": test}.items():
        if other is not None and part in given:
            raise DataError(f"{file} has a {part} part already: leave {other} out")
        if other is not None:
            given[part] = read_table(Path(other).expanduser(), delimiter)["train"]
    listed = dict(categories) if isinstance(categories, Mapping) else dict.fromkeys(categories)
    known = [*integers, *listed, *(supports or {})]
    chosen = _chosen(join_parts(given), columns, exclude, known)
    read = {name: TableColumn.of(name, each, name in listed) for name, each in chosen.items()}
    kept, notes = _complete_rows(read, missing == "drop_rows")
    indices = _divided(given, kept, test_fraction, validation_fraction)
    training = {name: column.at(indices["train"]) for name, column in read.items()}
    own = {
        **{name: training[name].integers() for name in integers},
        **{name: Categories([*map(str, names)]) for name, names in listed.items() if names},
        **(supports or {}),
    }
    for name, support in own.items():
        check_instance(f"the support of {name}", support, Support, "pass one, such as Real()")
    found = Described.of(training, own, max_categories, redundant == "drop")
    split = GIVEN_SPLIT if "test" in given else RANDOM_SPLIT
    return TableData.of(
        ", ".join([str(file.resolve()), split, *notes, *found.notes]),
        {part: found.rows(read, part, rows) for part, rows in indices.items()},
        codec=found.columns,
    )


@dataclass(frozen=True)
class Described:
    """The columns that are used, with their supports, and what is to be told of others."""

    columns: TableColumns
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        training: Mapping[str, TableColumn],
        own: Mapping[str, Support],
        max_categories: int,
        drop: bool,
    ) -> "Described":
        """Find the supports of training values; refuse columns without a density, or drop them."""
        found: dict[str, Support] = {}
        seen: dict[bytes, str] = {}
        lost = []
        for name, column in training.items():
            problem = f"is constant, {shown(column.values[0])}" if column.is_constant else ""
            if not problem:
                support = own.get(name) or column.support(max_categories)
                if support.size > 1:
                    raise DataError(f"column {name!r} is one, and {support} is of {support.size}")
                content = column.numbers(support, "train").astype(np.float32)
                twin = seen.setdefault(sha256(content.tobytes()).digest(), name)
                problem = f"holds the values of {twin!r}" if twin != name else ""
            if not problem:
                column.check()
                found[name] = support
            elif drop:
                lost.append(name)
                log.warning(f"column {name!r} is left out, since it {problem}")
            else:
                raise DataError(
                    f"column {name!r} {problem}, and has no density of its own: leave it out by"
                    f" exclude=[{name}], or all such columns by redundant=drop"
                )
        if not found:
            raise DataError("no column is left: a density needs one whose values differ")
        notes = (f"without {', '.join(lost)}",) if lost else ()
        return cls(TableColumns([*found], [*found.values()]), notes)

    def rows(
        self, read: Mapping[str, TableColumn], part: str, rows: Int[np.ndarray, " some"]
    ) -> Rows:
        """The rows of a part as numbers."""
        if not len(rows):
            raise DataError(f"the {part} part is empty: give it rows")
        values = np.empty((len(rows), len(self.columns.names)), dtype=np.float32)
        for place, (name, support) in enumerate(self.columns.each.items()):
            values[:, place] = read[name].at(rows).numbers(support, part)
        return Rows(torch.from_numpy(values))


def _chosen(
    given: Columns,
    columns: Sequence[str] | None,
    exclude: Sequence[str],
    known: Iterable[str],
) -> Columns:
    """The columns that are asked for."""
    for name in [*(columns or ()), *exclude, *known]:
        if name not in given:
            raise DataError(f"there is no column {name!r}: there are {', '.join(given)}")
    kept = [name for name in columns or given if name not in exclude]
    if not kept:
        raise DataError("no column is left: exclude fewer")
    for name in known:
        if name not in kept:
            raise DataError(f"column {name!r} is left out, and yet something is said of it")
    return {name: given[name] for name in kept}


def _complete_rows(
    read: Mapping[str, TableColumn], drop: bool
) -> tuple[Bool[np.ndarray, " rows"], tuple[str, ...]]:
    """Which rows miss nothing, and what is to be told of the others.

    Raises:
        DataError: There are others, and they are not to be dropped.
    """
    lacking = {name: int(column.missing.sum()) for name, column in read.items()}
    lacking = {name: count for name, count in lacking.items() if count}
    complete = ~np.any([column.missing for column in read.values()], axis=0)
    if not lacking:
        return complete, ()
    lost = int((~complete).sum())
    told = ", ".join(f"{name!r} misses {count}" for name, count in lacking.items())
    if not drop or not complete.any():
        raise DataError(
            f"of {len(complete)} values, column {told}: fill them in, leave columns out by"
            f" exclude=[...], or leave out the {lost} rows that miss one by missing=drop_rows"
        )
    log.warning(f"{lost} of {len(complete)} rows are left out: of their values, column {told}")
    return complete, (f"without {lost} rows that miss values",)


def _divided(
    given: Mapping[str, Columns],
    kept: Bool[np.ndarray, " rows"],
    test_fraction: float,
    validation_fraction: float,
) -> dict[str, Int[np.ndarray, " some"]]:
    """The rows of each part: those of the files, and what is taken out of the training rows."""
    counts = [len(next(iter(columns.values()))) for columns in given.values()]
    ends = np.cumsum([0, *counts])
    indices = {
        part: np.flatnonzero(kept[start:end]) + start
        for part, start, end in zip(given, ends[:-1], ends[1:], strict=True)
    }
    train = indices["train"]
    if len(train) < 4:
        raise DataError(f"{len(train)} training rows are too few: a density needs many more")
    fraction = 0.0 if "val" in given else validation_fraction
    parts = complete_parts(indices, np.zeros(len(train), int), test_fraction, fraction)
    taken = {name: parts[name] for name in parts if name not in given or name == "train"}
    return {**indices, **{name: train[np.asarray(part.indices)] for name, part in taken.items()}}
