"""What the study of densities is about: rows in three parts, the same for every method."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.model_selection import train_test_split
from torch import Tensor

from tarflow.ablation.densities.table_sources import TABLES, Table
from tarflow.estimation.planar import Checkerboard, Moons, NormalMixture, PlanarDensity, Rings

SEED = 0
"""Of splits, of noise within cells, and of points in the plane: the same whatever is fitted."""
PLANAR: dict[str, PlanarDensity] = {
    "moons": Moons(),
    "checkerboard": Checkerboard(),
    "rings": Rings(),
    "normal_mixture": NormalMixture(),
}
PLANAR_ROWS = (50_000, 5_000, 20_000)
"""Points in the plane: training, validation, test."""
DATA = (*PLANAR, *TABLES)
"""All names."""


@dataclass(frozen=True)
class DensityData:
    """Rows, standardized by the mean and the deviation of those to train by.

    Attributes:
        name: What the data is called.
        train: Rows to fit to.
        validation: Rows to choose by.
        test: Rows to measure on; they choose nothing.
        mean: Of the training rows, column by column, before.
        std: Their deviation.
        left_out: Columns that are not among them.
    """

    name: str
    train: Float[Tensor, "train columns"]
    validation: Float[Tensor, "validation columns"]
    test: Float[Tensor, "test columns"]
    mean: Float[Tensor, " columns"]
    std: Float[Tensor, " columns"]
    left_out: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.train.shape[1]

    @property
    def truth(self) -> PlanarDensity | None:
        """The density itself, where it is known."""
        return PLANAR.get(self.name)

    @property
    def log_scale(self) -> float:
        """By how much the log-density of a row falls, in nats, when it is not standardized."""
        return float(self.std.log().sum())

    def standardized(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Rows as methods see them."""
        return (x - self.mean) / self.std

    def original(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Rows as they were."""
        return x * self.std + self.mean


@cache
def density_data(name: str) -> DensityData:
    """The data of a name, made once in each process."""
    return of_plane(name) if name in PLANAR else of_table(name, TABLES[name]())


def of_plane(name: str) -> DensityData:
    """Exact samples of a planar density."""
    source = torch.Generator().manual_seed(SEED)
    x = PLANAR[name].sample(sum(PLANAR_ROWS), source)
    train, validation, test = x.split(PLANAR_ROWS)
    return _standardized(name, train, validation, test)


def of_table(name: str, table: Table) -> DensityData:
    """A table in three parts: 60 %, 20 % and 20 % of the rows, of every class where there are any.

    Each value stands for a cell, and gets a place in it that is drawn once. Columns that are
    constant in the training rows are left out.
    """
    parts = split(table)
    varies = np.ptp(table.values[parts[0]], axis=0) > 0
    noise = np.random.default_rng(SEED).uniform(size=table.values.shape)
    values = torch.from_numpy(table.values + table.cells * noise)[:, torch.from_numpy(varies)]
    constant = (each for each, kept in zip(table.columns, varies, strict=True) if not kept)
    left_out = (*table.left_out, *constant)
    return _standardized(name, *(values[rows] for rows in parts), left_out=left_out)


def split(table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the rows of a table to train by, to choose by, and to measure on."""
    rows, labels = np.arange(len(table.values)), table.labels
    train, held = train_test_split(rows, test_size=0.4, stratify=labels, random_state=SEED)
    kinds = None if labels is None else labels[held]
    halves: Any = train_test_split(held, test_size=0.5, stratify=kinds, random_state=SEED)
    return np.asarray(train), *halves


def _standardized(
    name: str, train: Tensor, validation: Tensor, test: Tensor, left_out: tuple[str, ...] = ()
) -> DensityData:
    """Data of three parts."""
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    train, validation, test = ((part - mean) / std for part in (train, validation, test))
    return DensityData(name, train, validation, test, mean, std, left_out)
