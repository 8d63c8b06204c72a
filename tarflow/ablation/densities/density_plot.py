"""The picture of the study of densities: the truth in the plane, and every method beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tarflow.ablation.claims import Results, data_of
from tarflow.ablation.densities.density_data import PLANAR, density_data
from tarflow.ablation.densities.density_methods import METHODS
from tarflow.ablation.densities.density_runs import SIDE, DensityRun, grid
from tarflow.evaluation.figures import new_figure
from tarflow.machine.files import replacing

PICTURE = "densities.png"
LEVELS = 32
"""Number of colours, few for a small file."""
BRIGHTEST = 0.99
"""The quantile of the true density, where there is any, that is the brightest colour."""


def draw(path: Path, results: Results, directory: Path) -> Path | None:
    """Draw densities in the plane, a row for each, of the first seed.

    Args:
        path: The picture.
        results: What the runs have left.
        directory: Of the study, which keeps grids of log-densities.

    Returns:
        The picture; None where there are no densities in the plane.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    names = [name for name in data_of(results) if name in PLANAR]
    if not names:
        return None
    rows = {name: {"truth": _truth(name), **_found(results, name, directory)} for name in names}
    columns = ("truth", *(name for name in METHODS if any(name in row for row in rows.values())))
    figure = new_figure(figsize=(1.7 * len(columns), 1.75 * len(names)))
    panels = figure.subplots(len(names), len(columns), squeeze=False)
    for axes, column in zip(panels[0], columns, strict=True):
        axes.set_title(METHODS[column].words if column in METHODS else column, fontsize=8)
    for line, row in zip(panels, rows.values(), strict=True):
        _draw_row(line, [row.get(column) for column in columns])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        figure.savefig(new, dpi=80, format="png", metadata={"Software": None})
    return path


def _draw_row(panels: Iterable[Any], densities: Sequence[np.ndarray | None]) -> None:
    """Densities beside the first of them, which is the truth, in the same colours."""
    truth = densities[0]
    assert truth is not None
    brightest = np.quantile(truth[truth > 1e-3 * truth.max()], BRIGHTEST)
    for axes, density in zip(panels, densities, strict=True):
        if density is not None:
            image = (density.reshape(SIDE, SIDE) / brightest * LEVELS).round()
            told = {"origin": "lower", "cmap": "magma", "interpolation": "nearest"}
            axes.imshow(image, vmin=0, vmax=LEVELS, **told)
        axes.set_xticks([])
        axes.set_yticks([])


def _truth(data: str) -> np.ndarray:
    """The true density on the grid."""
    return PLANAR[data].log_prob(grid(density_data(data))).exp().numpy()


def _found(results: Results, data: str, directory: Path) -> dict[str, np.ndarray]:
    """Densities on the grid by method, of the first seed that there is."""
    found = {}
    for settings in (result["settings"] for result in results):
        method = settings["variant"]
        if settings["data"] == data and method not in found:
            run = DensityRun(directory, data, method, settings["seed"], settings["seconds"])
            found[method] = np.exp(np.load(run.arrays)["grid"])
    return found
