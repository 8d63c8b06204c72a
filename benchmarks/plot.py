"""Draws what a benchmark found."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Measurement, Results

COLORS = {
    "baseline": "#9aa5b1",
    "sequential": "#3b7dd8",
    "windowed": "#e07a3f",
    "compiled": "#4f9d69",
}


def draw(results: Results, path: Path) -> None:
    """Write a picture: speed against the baseline above, the share of the roofline below."""
    modes = [m for m in COLORS if any(each.mode == m for each in results.measurements)]
    cases = list(dict.fromkeys(each.case for each in results.measurements))
    figure = Figure(figsize=(max(6.0, 1.7 * len(cases) + 1), 6.2), layout="constrained")
    speed, share = figure.subplots(2, 1, sharex=True)
    for index, mode in enumerate(modes):
        own = {each.case: each for each in results.measurements if each.mode == mode}
        offset = (index - (len(modes) - 1) / 2) * 0.8 / len(modes)
        at = [place + offset for place, case in enumerate(cases) if case in own]
        shown = [own[case] for case in cases if case in own]
        style = {"width": 0.75 / len(modes), "color": COLORS[mode], "label": mode}
        _bars(speed, at, shown, [results.ratio(each) for each in shown], style)
        share.bar(at, [100 * each.roofline for each in shown], **style)
    for axes in (speed, share):
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    speed.set_ylabel("speed / baseline\n(images per second above)")
    speed.axhline(1, color="#555555", linewidth=0.8, linestyle=":")
    share.set_ylabel("% of the machine's roofline")
    share.set_xticks(range(len(cases)), [f"T = {t}, batch {b}\n{d}" for t, b, d in cases])
    speed.legend(frameon=False, ncols=len(modes), loc="lower left", bbox_to_anchor=(0, 1))
    figure.suptitle(f"Guided sampling on {results.environment['hardware']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _bars(
    axes: Axes, at: list[float], shown: list[Measurement], heights: list[float], style: dict
) -> None:
    """Bars with the images per second on top."""
    bars = axes.bar(at, heights, **style)
    labels = [f"{each.images_per_second:.3g}" for each in shown]
    axes.bar_label(bars, labels, fontsize=7, padding=1)
