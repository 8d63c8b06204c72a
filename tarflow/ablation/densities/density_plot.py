"""The picture of the study of densities: the truth in the plane, and every method beside it."""

from collections.abc import Iterator
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
    columns = [name for name in METHODS if any(_is_of(r, names, name) for r in results)]
    figure = new_figure(figsize=(1.7 * (len(columns) + 1), 1.75 * len(names)))
    panels = figure.subplots(len(names), len(columns) + 1, squeeze=False)
    for row, name in zip(panels, names, strict=True):
        data = density_data(name)
        truth = data.truth.log_prob(grid(data)).exp().numpy()
        brightest = np.quantile(truth[truth > 1e-3 * truth.max()], BRIGHTEST)
        found = dict(_grids(results, name, directory))
        for axes, column in zip(row, [None, *columns], strict=True):
            density = truth if column is None else found.get(column)
            if density is not None:
                image = density.reshape(SIDE, SIDE)
                axes.imshow(image, origin="lower", vmin=0, vmax=brightest, cmap="magma")
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, column in zip(panels[0], [None, *columns], strict=True):
        axes.set_title("truth" if column is None else METHODS[column].words, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        figure.savefig(new, dpi=90, format="png", metadata={"Software": None})
    return path


def _is_of(result: dict[str, Any], names: list[str], method: str) -> bool:
    """Whether a result is of a method, and of one of some data sets."""
    settings = result["settings"]
    return settings["data"] in names and settings["variant"] == method


def _grids(results: Results, data: str, directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Densities on the grid by method, of the first seed that there is."""
    done = set()
    for result in results:
        told = result["settings"]
        if told["data"] == data and told["variant"] not in done:
            done.add(told["variant"])
            run = DensityRun(directory, data, told["variant"], told["seed"], told["seconds"])
            yield told["variant"], np.exp(np.load(run.arrays)["grid"])
