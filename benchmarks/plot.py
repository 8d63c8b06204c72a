"""Draws what a benchmark found."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import M, Report, Results

COLORS = {
    "baseline": "#9aa5b1",
    "sequential": "#3b7dd8",
    "windowed": "#e07a3f",
    "compiled": "#4f9d69",
    "tarflow": "#3b7dd8",
    "checkpointed": "#e07a3f",
}
OTHER = "#8a63b8"
"""The color of a mode without one of its own."""


def draw(results: Results, path: Path) -> None:
    """Write a picture: speed against the baseline above, the share of the roofline below."""
    figure, (speed, share) = panels(results, 2)
    bars(speed, results, results.ratio, lambda each: f"{each.images_per_second:.3g}")
    bars(share, results, lambda each: 100 * each.roofline)
    speed.set_ylabel("speed / baseline\n(images per second above)")
    speed.axhline(1, color="#555555", linewidth=0.8, linestyle=":")
    share.set_ylabel("% of the machine's roofline")
    finish(figure, f"Guided sampling on {results.environment['hardware']}", path)


def panels(results: Report, number: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure of panels above each other, with a place for each case below them."""
    cases = cases_of(results)
    size = (max(6.0, 1.7 * len(cases) + 1), 2.7 * number + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subplots(number, 1, sharex=True)
    for axes in rows:
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    labels = [f"T = {t}, batch {b}\n{d}" for t, b, d in cases]
    rows[-1].set_xticks(range(len(cases)), labels)
    return figure, rows


def bars(
    axes: Axes,
    results: Report[M],
    height: Callable[[M], float],
    label: Callable[[M], str] | None = None,
) -> None:
    """A group of bars for each case, a bar for each mode, with a label on top."""
    cases, modes = cases_of(results), modes_of(results)
    for index, mode in enumerate(modes):
        own = {each.case: each for each in results.measurements if each.mode == mode}
        offset = (index - (len(modes) - 1) / 2) * 0.8 / len(modes)
        at = [place + offset for place, case in enumerate(cases) if case in own]
        shown = [own[case] for case in cases if case in own]
        drawn = axes.bar(
            at,
            [height(each) for each in shown],
            width=0.75 / len(modes),
            color=COLORS.get(mode, OTHER),
            label=mode,
        )
        if label is not None:
            axes.bar_label(drawn, [label(each) for each in shown], fontsize=7, padding=1)


def finish(figure: Figure, title: str, path: Path) -> None:
    """Add a legend and a title, and write the file."""
    first = figure.axes[0]
    columns = len(first.get_legend_handles_labels()[1])
    first.legend(frameon=False, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1))
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def cases_of(results: Report) -> list[tuple[int, int, str]]:
    """The cases, in order."""
    return list(dict.fromkeys(each.case for each in results.measurements))


def modes_of(results: Report) -> list[str]:
    """The modes, in order."""
    return list(dict.fromkeys(each.mode for each in results.measurements))
