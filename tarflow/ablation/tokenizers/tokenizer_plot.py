"""The plot of the study of tokenizers: what they keep and use; samples by distance and speed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.ablation.tokenizers.recipes import RECIPES
from tarflow.ablation.ways_table import WayRow
from tarflow.evaluation.figures import new_figure, set_logarithmic
from tarflow.machine.files import replacing

PICTURE = "tokenizers.png"


def draw(path: Path, results: Results, rows: Sequence[WayRow]) -> Path:
    """Draw reconstructions beside codes in use, and samples' distances beside their speed.

    Args:
        path: The picture.
        results: What the runs have left.
        rows: What samples are drawn from.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for data in data_of(results):
        _draw_reconstructions(left, results, data)
        _draw_samples(right, results, data, rows)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        figure.savefig(new, dpi=110, format="png", metadata={"Software": None})
    return path


def _draw_reconstructions(axes: Any, results: Results, data: str) -> None:
    """A point for each codebook; a line for each tokenizer without."""
    for number, (name, recipe) in enumerate(RECIPES.items()):
        told = {"color": f"C{number}", "label": recipe.words}
        kept = Quantity(f"tokenizer_{name}", "reconstruction/psnr").spread(results, data)
        used = Quantity(f"tokenizer_{name}", "codes/in_use").spread(results, data)
        if kept is not None and used is not None:
            _point(axes, used, kept, told)
        elif kept is not None:
            axes.axhline(kept[0], linestyle=":", linewidth=1, **told)
    axes.set_xlim(0, 1.05)
    axes.set_xlabel("share of codes in use (dotted: no codebook)", fontsize=8)
    axes.set_ylabel("PSNR of held-out images, dB", fontsize=8)


def _draw_samples(axes: Any, results: Results, data: str, rows: Sequence[WayRow]) -> None:
    """A point for each flow."""
    for number, row in enumerate(rows):
        speed = row.quantity("per_second/{}").spread(results, data)
        distance = row.quantity("samples/{}/frechet_distance").spread(results, data)
        if speed is not None and distance is not None:
            _point(axes, speed, distance, {"color": f"C{number}", "label": row.words})
    set_logarithmic(axes, "x")
    axes.set_xlabel("samples a second", fontsize=8)
    axes.set_ylabel("Fréchet distance", fontsize=8)


def _point(
    axes: Any, x: tuple[float, float], y: tuple[float, float], told: dict[str, Any]
) -> None:
    """A mean with deviations."""
    axes.errorbar(x[0], y[0], xerr=x[1], yerr=y[1], marker="o", ms=5, linestyle="", **told)
