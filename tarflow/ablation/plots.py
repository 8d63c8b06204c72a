"""Pictures of what the runs have left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.ablation.judging import RULES, WEIGHTS
from tarflow.ablation.sections import BITS, DENOISED, DRAWN, RAW, guided
from tarflow.errors import ConfigurationError

DISTANCES = (
    ("default", "default", DENOISED),
    ("not denoised", "default", DRAWN),
    ("volume-preserving", "volume_preserving", DENOISED),
    ("1 transform", "transforms_1", DENOISED),
    ("2 transforms", "transforms_2", DENOISED),
    ("8 transforms", "transforms_8", DENOISED),
    ("fixed order", "fixed_order", DENOISED),
    ("no noise", "noise_0", DENOISED),
    ("σ = 0.02", "noise_0.02", DENOISED),
    ("σ = 0.05", "noise_0.05", DENOISED),
    ("σ = 0.2", "noise_0.2", DENOISED),
    ("uniform", "uniform", DRAWN),
    ("raw weights", "default", RAW),
    ("not clipped", "unclipped", DENOISED),
    ("AdamW", "adamw", DENOISED),
)
LIKELIHOODS = (
    ("TarFlow, labelled", "uniform", BITS),
    ("TarFlow", "unlabelled", BITS),
    ("neural spline", "neural_spline", BITS),
    ("masked autoregressive", "masked_autoregressive", BITS),
    ("RealNVP", "real_nvp", BITS),
    ("Gaussian", "gaussian", BITS),
)
COLORS = ("#1f6f8b", "#d1603d", "#6a994e")


def draw(directory: Path, results: Results) -> list[Path]:
    """Draw what every change does to distances and likelihoods, and guidance by weight.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "pictures need matplotlib: pip install 'tarflow[baselines]'"
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    names = data_of(results)
    if not names:
        return []
    bars = Figure(figsize=(5 * len(names), 7.6), layout="constrained")
    _draw_bars(bars, names, results)
    curves = Figure(figsize=(4 * (len(names) + 1), 3.4), layout="constrained")
    _draw_curves(curves, names, results)
    paths = [directory / "ablations.png", directory / "ablations_guidance.png"]
    for path, figure in zip(paths, (bars, curves), strict=True):
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return paths


def _draw_bars(figure: Any, names: Sequence[str], results: Results) -> None:
    """Distances and likelihoods of variants, a column for each data set."""
    panels = figure.subplots(2, len(names), squeeze=False, height_ratios=(len(DISTANCES), 6))
    for column, data in enumerate(names):
        titles = (f"{data}: Fréchet distance of samples (less is better)", f"{data}: bits/dim")
        for index, (title, rows) in enumerate(zip(titles, (DISTANCES, LIKELIHOODS), strict=True)):
            found = {w: Quantity(name, path).spread(results, data) for w, name, path in rows}
            _draw_panel(panels[index, column], title, found, COLORS[index])


def _draw_panel(axes: Any, title: str, found: dict[str, Any], color: str) -> None:
    """Horizontal bars with deviations over seeds; the first row is the one to compare with."""
    spreads = list(found.values())
    for row, spread in enumerate(spreads):
        if spread is None:
            axes.text(0, row, " not finite, or not measured", va="center", fontsize=7)
            continue
        mean, deviation = spread
        axes.barh(row, mean, xerr=deviation, color=color, alpha=1.0 if row == 0 else 0.55)
        axes.text(mean + deviation, row, f"  {mean:.3g}", va="center", fontsize=7)
    if spreads[0]:
        axes.axvline(spreads[0][0], color="0.3", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_curves(figure: Any, names: Sequence[str], results: Results) -> None:
    """Distance and accuracy by weight, a line for each rule."""
    panels = figure.subplots(1, len(names) + 1)
    for axes, data in zip(panels, names, strict=False):
        _lines(axes, results, data, "frechet_distance")
        axes.set_title(f"{data}: Fréchet distance, denoised", fontsize=9)
    _lines(panels[-1], results, names[0], "accuracy")
    panels[-1].set_title(f"{names[0]}: classifier accuracy", fontsize=9)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=7, frameon=False, loc="upper left")


def _lines(axes: Any, results: Results, data: str, key: str) -> None:
    """Means with deviations over seeds."""
    for color, rule in zip(COLORS, RULES, strict=True):
        paths = [f"samples/denoised/{key}", *(guided(rule, w, key) for w in WEIGHTS)]
        spreads = [Quantity("default", path).spread(results, data) for path in paths]
        points = [(w, *s) for w, s in zip((0.0, *WEIGHTS), spreads, strict=True) if s]
        if points:
            weights, means, deviations = zip(*points, strict=True)
            axes.errorbar(weights, means, deviations, color=color, label=rule, marker="o", ms=3)
    axes.set_xlabel("guidance weight", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
