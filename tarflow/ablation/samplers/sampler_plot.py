"""The plot of the study of samplers: quality against time, with all of them in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.evaluation.figures import new_figure, set_logarithmic
from tarflow.machine.files import replacing

PICTURE = "few_passes.png"
SIZES = (1, 64)
COLORS = (
    *("#222222", "#1f6f8b", "#6a994e", "#d1603d"),
    *("#7d4e9e", "#b08900", "#8a8a8a", "#d183b0"),
)


def draw(path: Path, results: Results, lines: Mapping[str, Sequence[Any]]) -> Path:
    """Draw distances against times: a row for each data set, a column for each batch size.

    Args:
        path: The picture.
        results: What the runs have left.
        lines: What is joined by a line, by its name: ways to draw, of the study's tables.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    names = data_of(results)
    figure = new_figure(figsize=(11, 4.2 * max(len(names), 1)))
    panels = figure.subplots(max(len(names), 1), len(SIZES), squeeze=False)
    for row, data in zip(panels, names, strict=False):
        for axes, size in zip(row, SIZES, strict=True):
            _draw_panel(axes, results, data, size, lines)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        figure.savefig(new, dpi=110, format="png", metadata={"Software": None})
    return path


def _draw_panel(
    axes: Any, results: Results, data: str, size: int, lines: Mapping[str, Sequence[Any]]
) -> None:
    """All samplers on a data set, so many samples at a time."""
    models = list(dict.fromkeys(drawn.variant for each in lines.values() for drawn in each))
    for name, ways in lines.items():
        points = [found for drawn in ways if (found := _point(results, data, size, drawn))]
        if not points:
            continue
        color = COLORS[models.index(ways[0].variant) % len(COLORS)]
        x, y, deviation = zip(*points, strict=True)
        dashed = "--" if name.endswith("guided") else "-"
        hollow = {"markerfacecolor": "none"} if dashed == "--" else {}
        told = {"color": color, "linestyle": dashed, "marker": "o", "ms": 4, "lw": 1}
        axes.errorbar(x, y, deviation, label=name, **told, **hollow)
    real = Quantity("flow", "real/frechet_distance").spread(results, data)
    if real is not None:
        axes.axhline(real[0], color="0.6", linewidth=0.8, linestyle=":")
    set_logarithmic(axes, "x", "y")
    axes.set_title(f"{data}, {size} at a time", fontsize=9)
    axes.set_xlabel("milliseconds for each sample", fontsize=8)
    axes.set_ylabel("Fréchet distance (dotted: real images)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _point(
    results: Results, data: str, size: int, drawn: Any
) -> tuple[float, float, float] | None:
    """Time, distance and its deviation; None where one of them is not known."""
    place = f"milliseconds/{drawn.way}/batch_{size}"
    time = Quantity(drawn.variant, place).spread(results, data)
    path = f"samples/{drawn.way}/frechet_distance"
    distance = Quantity(drawn.variant, path).spread(results, data)
    return None if time is None or distance is None else (time[0], *distance)
