"""The tables that ship with scikit-learn, as numbers that have a density."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import datasets

DECIMALS = 8
"""Numbers that agree to so many decimals are the same."""


@dataclass(frozen=True)
class Table:
    """A table whose values stand for cells.

    Attributes:
        values: Lower ends of the cells, a row for each example.
        columns: Their names.
        cells: How wide the cells of every column are.
        labels: The class of each row, to split by; None where there are none.
        left_out: Names of columns that have no density.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    cells: np.ndarray
    labels: np.ndarray | None
    left_out: tuple[str, ...] = ()


def diabetes() -> Table:
    """442 patients, their measurements and the progression of their disease.

    Sex is binary, and s4 is the ratio of s1 to s3, rounded.
    """
    found: Any = datasets.load_diabetes(scaled=False)
    values = np.column_stack([found.data, found.target])
    return _table(values, (*found.feature_names, "target"), None, ("sex", "s4"))


def wine() -> Table:
    """178 wines of three growers by 13 measurements."""
    return _labelled(datasets.load_wine())


def breast_cancer() -> Table:
    """569 images of cells by 24 features, without six in which one row of forty is exactly 0."""
    spiked = ("concavity", "concave points")
    names = [f"mean {name}" for name in spiked] + [f"{name} error" for name in spiked]
    return _labelled(datasets.load_breast_cancer(), (*names, *(f"worst {n}" for n in spiked)))


def iris() -> Table:
    """150 flowers of three kinds by four lengths."""
    return _labelled(datasets.load_iris())


def digits() -> Table:
    """1797 images of digits by 64 pixels of 17 levels."""
    return _labelled(datasets.load_digits())


TABLES: dict[str, Callable[[], Table]] = {
    each.__name__: each for each in (diabetes, wine, breast_cancer, iris, digits)
}
"""By name."""


def _labelled(found: Any, left_out: tuple[str, ...] = ()) -> Table:
    """A table whose target is a class."""
    return _table(found.data, tuple(found.feature_names), found.target, left_out)


def _table(
    values: np.ndarray,
    columns: tuple[str, ...],
    labels: np.ndarray | None,
    left_out: tuple[str, ...],
) -> Table:
    """A table without some columns; the cells of others are as wide as their smallest step."""
    kept = [index for index, name in enumerate(columns) if name not in left_out]
    values = values[:, kept]
    names = tuple(columns[index] for index in kept)
    return Table(values, names, np.array([_step(each) for each in values.T]), labels, left_out)


def _step(column: np.ndarray) -> float:
    """The smallest difference between two values; 1 where there is one value alone."""
    return float(np.diff(np.unique(column.round(DECIMALS))).min(initial=1.0))
