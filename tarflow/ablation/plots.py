"""Pictures of what the runs have left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.ablation.judging import RULES, WEIGHTS
from tarflow.ablation.sections import AT_LEVEL, BITS, DENOISED, DRAWN, NATS, RAW, by_weight
from tarflow.ablation.variants import REFERENCE
from tarflow.evaluation.figures import new_figure

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
LATER = (
    ("default, again", REFERENCE),
    ("all levels to 0.15", "levels_0.15"),
    ("all levels to 0.3", "levels_0.3"),
    ("deep near the noise", "deep_near_noise"),
    ("deep near the data", "deep_near_data"),
    ("rotary", "rotary"),
    ("rotary in the grid", "rotary_grid"),
    ("RMSNorm", "rms_norm"),
    ("query-key norm", "query_key_norm"),
    ("adaptive norm", "adaptive_norm"),
    ("SwiGLU", "swiglu"),
    ("gated attention", "gated_attention"),
    ("softplus", "softplus"),
    ("soft clip", "soft_clip"),
    ("start token", "start_token"),
)
LEVELLED = ("levels_0.15", "levels_0.3")
"""Variants whose likelihood at the level of the others is one of several."""
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
    directory.mkdir(parents=True, exist_ok=True)
    names = data_of(results)
    if not names:
        return []
    bars = new_figure(figsize=(5 * len(names), 7.6))
    _draw_bars(bars, names, results)
    curves = new_figure(figsize=(4 * (len(names) + 1), 3.4))
    _draw_curves(curves, names, results)
    later = new_figure(figsize=(5 * len(names), 7.6))
    _draw_later(later, names, results)
    paths = [directory / f"ablations{end}.png" for end in ("", "_guidance", "_later")]
    for path, figure in zip(paths, (bars, curves, later), strict=True):
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


def _draw_later(figure: Any, names: Sequence[str], results: Results) -> None:
    """Distances and likelihoods of what later papers changed, a column for each data set."""
    panels = figure.subplots(2, len(names), squeeze=False)
    for column, data in enumerate(names):
        distances, likelihoods = {}, {}
        for words, name in LATER:
            path = AT_LEVEL if name in LEVELLED else NATS
            distances[words] = Quantity(name, DENOISED).spread(results, data)
            likelihoods[words] = Quantity(name, path).spread(results, data)
        titles = ("Fréchet distance of samples", "nats/dim above the default")
        for index, found in enumerate((distances, _above_first(likelihoods))):
            title = f"{data}: {titles[index]} (less is better)"
            _draw_panel(panels[index, column], title, found, COLORS[index])


def _above_first(found: dict[str, Any]) -> dict[str, Any]:
    """Means less that of the first row, which differences would else be small beside."""
    first = next(iter(found.values()))
    return {w: first and each and (each[0] - first[0], each[1]) for w, each in found.items()}


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
        quantities = (Quantity("default", path) for _, path in by_weight(rule, key))
        spreads = [quantity.spread(results, data) for quantity in quantities]
        points = [(w, *s) for w, s in zip((0.0, *WEIGHTS), spreads, strict=True) if s]
        if points:
            weights, means, deviations = zip(*points, strict=True)
            axes.errorbar(weights, means, deviations, color=color, label=rule, marker="o", ms=3)
    axes.set_xlabel("guidance weight", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
