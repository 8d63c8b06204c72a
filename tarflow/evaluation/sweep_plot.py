"""The plot of a guidance sweep: what is measured of samples, against the weight."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tarflow.evaluation.figures import new_figure
from tarflow.evaluation.guidance_sweep import Turn
from tarflow.evaluation.reporting import Report
from tarflow.evaluation.sample_table import COLUMNS
from tarflow.evaluation.samples import HELD_OUT
from tarflow.machine.files import replacing

COLORS = ("#1f6f8b", "#d1603d", "#6a994e", "#8e5ea2", "#b08900", "#4d4d4d")
BETTER = {"frechet_distance": "less is better", "kernel_distance": "less is better"}
WIDE = 3
"""Panels in a row."""

Spreads = Mapping[str, Mapping[str, float]]
"""Means and deviations over seeds, by the title of a turn."""


def draw(path: Path, turns: Sequence[Turn], report: Report) -> Path:
    """Draw every metric against the weight, a line for each rule.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    panels = _panels(report.values["samples"])
    rows = math.ceil(len(panels) / WIDE)
    wide = min(WIDE, len(panels))
    figure = new_figure(figsize=(3.9 * wide, 2.9 * rows + 0.5))
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    axes = figure.subplots(rows, wide, squeeze=False).flatten()
    for each, (title, found) in zip(axes, panels.items(), strict=False):
        _draw_panel(each, title, found, turns)
    for empty in axes[len(panels) :]:
        empty.set_axis_off()
    legend = {"fontsize": 9, "frameon": False}
    lines, names = axes[0].get_legend_handles_labels()
    if len(axes) > len(panels):
        axes[-1].legend(lines, names, loc="center left", **legend)
    else:
        figure.legend(lines, names, loc="outside lower center", ncols=4, **legend)
    with replacing(path) as new:
        figure.savefig(new, dpi=110, format="png", metadata={"Software": None})
    return path


def _panels(samples: Mapping[str, Any]) -> dict[str, Spreads]:
    """What is drawn, by title."""
    real, panels = samples[HELD_OUT], {}
    for extractor in (name for name in real if name not in ("accuracy", "non_finite")):
        for key, (heading, _) in COLUMNS.items():
            better = BETTER.get(key, "more is better")
            found = {title: scores[extractor][key] for title, scores in samples.items()}
            panels[f"{heading} ({extractor}): {better}"] = found
    if any("accuracy" in scores for title, scores in samples.items() if title != HELD_OUT):
        found = {title: scores["accuracy"] for title, scores in samples.items()}
        panels["classifier accuracy: more is better"] = found
    return panels


def _draw_panel(axes: Any, title: str, found: Spreads, turns: Sequence[Turn]) -> None:
    """One metric: means with deviations over seeds, and what real images score."""
    rules = list(dict.fromkeys(turn.rule for turn in turns if turn.rule)) or [""]
    for color, rule in zip(COLORS * len(rules), rules, strict=False):
        points = [turn for turn in turns if turn.rule in ("", rule)]
        means, deviations = (
            [found[turn.title][key] for turn in points] for key in ("mean", "deviation")
        )
        weights = [turn.weight for turn in points]
        style = {"color": color, "marker": "o", "ms": 4, "capsize": 2, "linewidth": 1.5}
        axes.errorbar(weights, means, deviations, label=rule or "no guidance", **style)
    real = found[HELD_OUT]["mean"]
    axes.axhline(real, color="0.4", linewidth=1, linestyle=":", label="held-out images")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("guidance weight", fontsize=9)
    axes.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
