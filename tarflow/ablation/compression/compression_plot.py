"""The plot of the study of compression: what the likelihood loses, by what is left to compute."""

from pathlib import Path
from typing import Any

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.ablation.compression.compression_runs import SMALL, variant_of
from tarflow.ablation.compression.compressors import COMPRESSORS, HALF
from tarflow.evaluation.figures import new_figure
from tarflow.machine.files import replacing

PICTURE = "compression.png"
COLORS = ("#1f6f8b", "#6a994e", "#d1603d", "#b08900")


def draw(path: Path, results: Results) -> Path:
    """Draw the rise of the negative log-likelihood by the share of operations of MLPs.

    Args:
        path: The picture.
        results: What the runs have left.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    names = data_of(results)
    figure = new_figure(figsize=(5.5 * max(len(names), 1), 4.2))
    panels = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    for axes, data in zip(panels, names, strict=False):
        _draw_panel(axes, results, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        figure.savefig(new, dpi=110, format="png", metadata={"Software": None})
    return path


def _draw_panel(axes: Any, results: Results, data: str) -> None:
    """A curve for each way to make flows smaller, with deviations; hollow points are tuned."""
    axes.set_yscale("symlog", linthresh=SMALL)  # first, or margins would be those of a line
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for color, compressor in zip(COLORS, COMPRESSORS.values(), strict=True):
        told = {"color": color, "marker": "o", "ms": 4, "lw": 1}
        for tuned in (False, True):
            shares = (HALF,) if tuned else compressor.shares
            variants = (variant_of(compressor.name, share, tuned) for share in shares)
            spreads = [Quantity(each, "rise/mean").spread(results, data) for each in variants]
            points = [(share, *s) for share, s in zip(shares, spreads, strict=True) if s]
            if points:
                label = compressor.words + ", tuned" * tuned
                hollow = {"markerfacecolor": "none", "linestyle": ""} if tuned else {}
                axes.errorbar(*zip(*points, strict=True), label=label, **told, **hollow)
    axes.axhline(SMALL, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_title(data, fontsize=9)
    axes.set_xlabel("share of the operations of MLPs", fontsize=8)
    axes.set_ylabel(f"rise of the loss (dotted: {SMALL:g})", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)
