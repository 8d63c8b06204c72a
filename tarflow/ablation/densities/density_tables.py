"""The page of the study of densities: divergences, log-likelihoods, targets, and a picture."""

from collections.abc import Callable
from pathlib import Path

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.ablation.densities.density_data import DATA, PLANAR
from tarflow.ablation.densities.density_methods import METHODS
from tarflow.ablation.densities.density_plot import PICTURE, draw
from tarflow.ablation.densities.particle_tables import (
    PARTICLES_PICTURE,
    draw_particles,
    particle_blocks,
)
from tarflow.ablation.marked_page import NOTHING, empty, markdown, write_page
from tarflow.ablation.ways_table import told

LARGEST = {"moons": 0.02, "checkerboard": 0.05}
"""Divergences, in nats, that TarFlow is to reach."""
WORDS = "The truth in the plane, and every method beside it"


def _spread(quantity: Quantity, results: Results, data: str) -> str:
    """Mean and deviation over seeds."""
    return told(quantity.spread(results, data))


def _with_error(quantity: Quantity, results: Results, data: str) -> str:
    """The mean over seeds, with the mean of its standard errors over rows."""
    both = (Quantity(quantity.variant, f"{quantity.path}/{n}") for n in ("mean", "standard_error"))
    mean, error = (each.spread(results, data) for each in both)
    return "" if mean is None or error is None else f"{mean[0]:.3f} ± {error[0]:.2g}"


def _whole(quantity: Quantity, results: Results, data: str) -> str:
    """The mean over seeds as a whole number."""
    found = quantity.spread(results, data)
    return "" if found is None else f"{found[0]:,.0f}"


Cell = Callable[[Quantity, Results, str], str]
PLANE_BLOCKS: dict[str, tuple[str, Cell]] = {"divergence": ("divergence/mean", _spread)}
TABLE_BLOCKS: dict[str, tuple[str, Cell]] = {
    "log_likelihood": ("log_likelihood/mean", _spread),
    "difference": ("difference", _with_error),
}
EFFORT_BLOCKS: dict[str, tuple[str, Cell]] = {
    "parameters": ("parameters", _whole),
    "steps": ("steps", _whole),
}
"""Tables with a row for each method: where a run has the number, and what makes a cell of it."""


def blocks(results: Results) -> dict[str, str]:
    """What stands between the marks of the page: the tables, and the picture."""
    known = [name for name in data_of(results) if name in DATA]
    plane, tables = [n for n in known if n in PLANAR], [n for n in known if n not in PLANAR]
    found = {"plot": f"![{WORDS}](images/{PICTURE})" if plane else NOTHING}
    found["targets"] = _targets(results)
    groups = ((PLANE_BLOCKS, plane), (TABLE_BLOCKS, tables), (EFFORT_BLOCKS, known))
    for group, names in groups:
        for block, (path, cell) in group.items():
            found[block] = _table(results, names, path, cell) if names else NOTHING
    return {**found, **particle_blocks(results)}


def fill(page: Path, results: Results, directory: Path) -> list[Path]:
    """Bring the tables and the picture of a page up to date; returns the files written.

    The directory is that of the study, where the log-densities are kept that are drawn.
    """
    found = blocks(results)
    blank = "\n".join(["# Densities\n", *(empty(name) for name in found)])
    images = page.parent / "images"
    pictures = (
        draw(images / PICTURE, results, directory),
        draw_particles(images / PARTICLES_PICTURE, results),
    )
    write_page(page, found, blank)
    return [page, *(each for each in pictures if each is not None)]


def _table(results: Results, names: list[str], path: str, cell: Cell) -> str:
    """Methods by data sets; methods of which nothing is known are left out."""
    rows = []
    for method in METHODS.values():
        cells = [cell(Quantity(method.name, path), results, name) for name in names]
        if any(cells):
            rows.append([method.words, *cells])
    return markdown(["", *names], *rows)


def _targets(results: Results) -> str:
    """What TarFlow was to reach, what it reached, and whether that is enough."""
    rows = [row for name in DATA for row in _target(results, name)]
    return markdown(["data", "target", "found", ""], *rows) if rows else NOTHING


def _target(results: Results, data: str) -> list[list[str]]:
    """The rows of a data set: none where there is no target, or nothing was measured."""
    path = "divergence" if data in PLANAR else "difference"
    mean, error = (
        Quantity("tarflow", f"{path}/{name}").spread(results, data)
        for name in ("mean", "standard_error")
    )
    if mean is None or error is None or (data in PLANAR and data not in LARGEST):
        return []
    if data in PLANAR:
        wanted = f"at most {LARGEST[data]} nats from the truth"
        met = mean[0] <= LARGEST[data]
    else:
        wanted, met = "at most a standard error below the neural spline", mean[0] >= -error[0]
    outcome = "reached" if met else "**missed**"
    return [[data, wanted, f"{mean[0]:.3f} ± {error[0]:.2g}", outcome]]
