"""Runs of the study of densities: a method that is fitted to a data set, and measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.ablation.densities.density_data import DensityData, density_data
from tarflow.ablation.densities.density_methods import METHODS, FittedDensity
from tarflow.ablation.study import StudyRun
from tarflow.evaluation.provenance import software
from tarflow.evaluation.reporting import mean_and_error
from tarflow.machine.files import replacing

SIDE = 120
"""Cells of a picture along either axis."""
MARGIN = 0.05
"""What a picture shows beyond all test points, as a share of their range."""


@dataclass(frozen=True)
class DensityRun(StudyRun):
    """A density of a data set, by a method and a seed."""

    directory: Path  # of the study
    data: str
    method: str
    seed: int  # of weights, batches and noise; not of the data
    seconds: float  # processor time of fitting, for flows

    @property
    def settings(self) -> dict[str, Any]:
        own = {"data": self.data, "variant": self.method, "seed": self.seed}
        return {**own, "seconds": self.seconds, **METHODS[self.method].recipe(self.data)}

    @property
    def name(self) -> str:
        return f"{self.data}-{self.method}-{self.seed}"

    @property
    def arrays(self) -> Path:
        """Where log-densities of test rows are kept, and those of a grid in the plane."""
        return self.directory / "arrays" / f"{self.name}.npz"

    def do(self) -> dict[str, Any]:
        """Fit and measure with one thread: then what runs beside it changes least."""
        torch.set_num_threads(1)
        data = density_data(self.data)
        fitted = METHODS[self.method].fit(data, self.seed, self.seconds)
        arrays = {"rows": fitted.log_prob(data.test).numpy()}
        if data.truth is not None:
            arrays["grid"] = log_prob_of_points(fitted, data, grid(data)).numpy()
        self.arrays.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.arrays) as new, new.open("wb") as file:
            kept: Any = {name: array.astype(np.float32) for name, array in arrays.items()}
            np.savez_compressed(file, **kept)
        return {
            "settings": self.settings,
            "software": software(),
            "columns": data.dim,
            "rows": [len(part) for part in (data.train, data.validation, data.test)],
            "left_out": list(data.left_out),
            **fitted.told,
            **measured(data, arrays["rows"]),
        }


def measured(data: DensityData, rows: np.ndarray) -> dict[str, Any]:
    """The mean log-density of test rows; in the plane also the divergence of the truth from it."""
    found = {"log_likelihood": _mean(torch.from_numpy(rows))}
    if data.truth is not None:
        truth = data.truth.log_prob(data.original(data.test))
        found["divergence"] = _mean(truth + data.log_scale - torch.from_numpy(rows))
    return found


def difference(rows: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """By how much log-densities exceed others of the same rows."""
    return _mean(torch.from_numpy(rows.astype(np.float64) - others))


def grid(data: DensityData) -> Float[Tensor, "points two"]:
    """The middles of the cells of a picture, which is a square, row by row from below."""
    x = data.original(data.test)
    low, high = x.min(dim=0).values, x.max(dim=0).values
    shares = (2 * torch.arange(SIDE, dtype=x.dtype) + 1) / SIDE - 1
    around = (0.5 + MARGIN) * (high - low).max() * shares
    first, second = (low + high)[:, None] / 2 + around
    return torch.cartesian_prod(second, first).flip(1)


def log_prob_of_points(
    fitted: FittedDensity, data: DensityData, points: Float[Tensor, "points two"]
) -> Float[Tensor, " points"]:
    """The log-density of points that are not standardized."""
    return fitted.log_prob(data.standardized(points)) - data.log_scale


def _mean(values: Tensor) -> dict[str, float]:
    """The mean with its standard error over rows."""
    found = mean_and_error(values)
    return {name: found[name] for name in ("mean", "standard_error")}
