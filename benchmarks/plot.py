"""Draws what benchmarks found."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Key, M, Report
from benchmarks.sampling_results import LengthResults, PeerResults, Results, family
from benchmarks.training_results import TrainingResults

COLORS = {
    "baseline": "#9aa5b1",
    "sequential": "#3b7dd8",
    "windowed": "#e07a3f",
    "windows": "#e07a3f",
    "plan": "#c23b5a",
    "compiled": "#4f9d69",
    "GS-Jacobi": "#4f9d69",
    "selective Jacobi": "#8a63b8",
    "tarflow": "#3b7dd8",
    "checkpointed": "#e07a3f",
}
OTHER = "#8a63b8"
"""The color of a mode without one of its own."""


def draw_sampling(results: Results, path: Path) -> None:
    """Write a picture: speed against the baseline above, the share of the roofline below."""
    figure, (speed, share) = panels(results, 2)
    bars(speed, results, results.ratio, lambda each: f"{each.images_per_second:.3g}")
    bars(share, results, lambda each: 100 * each.roofline)
    against_baseline(speed, "speed", "images per second")
    share.set_ylabel("% of the machine's roofline")
    finish(figure, f"Guided sampling on {results.device}", path)


def draw_training(results: TrainingResults, path: Path) -> None:
    """Write a picture: speed, model FLOP utilization and memory of every mode."""
    figure, (speed, utilization, memory) = panels(results, 3)
    bars(speed, results, results.ratio, lambda each: f"{each.steps_per_second:.3g}")
    against_baseline(speed, "speed", "steps per second")
    bars(
        utilization,
        results,
        lambda each: 100 * each.utilization,
        lambda each: f"{100 * each.utilization:.2g}",
    )
    utilization.set_ylabel("model FLOP utilization\n% of measured products")
    bars(memory, results, results.memory_ratio, lambda each: f"{each.peak_bytes / 2**20:,.0f}")
    against_baseline(memory, "peak memory", "MiB")
    finish(figure, f"Training on {results.device}", path)


def draw_peers(results: PeerResults, path: Path) -> None:
    """Write a picture: speed against deviation, a column for each case."""
    cases = cases_of(results)
    figure = Figure(figsize=(4.2 * len(cases) + 1, 7), layout="constrained")
    grid = figure.subplots(2, len(cases), squeeze=False, sharey="col")
    for column, case in enumerate(cases):
        for row, kind in enumerate(("rms", "maximum")):
            axes = grid[row, column]
            for name in results.families:
                own = [e for e in results.measurements if e.case == case and family(e) == name]
                own = [each for each in own if getattr(each, kind) < math.inf]
                at = [getattr(each, kind) for each in own]
                speeds = [each.images_per_second for each in own]
                color = COLORS.get(name, OTHER)
                axes.plot(at, speeds, "o-", markersize=4, color=color, label=name)
            axes.set(xscale="log", yscale="log", ylabel="images per second")
            axes.set_xlabel({"rms": "RMS", "maximum": "largest"}[kind] + " deviation")
        grid[0, column].set_title(in_words(case).replace("\n", ", "), fontsize=9)
    finish(figure, f"Parallel decoders on {results.device}", path, below=True)


def draw_lengths(results: LengthResults, path: Path) -> None:
    """Write a picture: seconds against the length, and against the batch size."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    for axes, over in zip(figure.subplots(1, 2), ("length", "batch_size"), strict=True):
        for each in results.exponents():
            if each.over == over:
                rows = results.series(each)
                x, y = [getattr(row, over) for row in rows], [row.median for row in rows]
                name = f"{each.mode}, {each.precision}: {each.slope:.2f} ± {each.error:.2f}"
                line = "o-" if each.precision == "float32" else "s--"
                axes.plot(x, y, line, color=COLORS.get(each.mode, OTHER), label=name)
        sizes = sorted({getattr(each, over) for each in results.measurements})
        axes.set(xscale="log", yscale="log", xlabel=over.replace("_", " "), ylabel="seconds")
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=7)
    save(figure, f"Time to sample on {results.device}", path)


def panels(results: Report, number: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure of panels above each other, with a place for each case below them."""
    cases = cases_of(results)
    size = (max(6.0, 1.7 * len(cases) + 1), 2.7 * number + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subplots(number, 1, sharex=True)
    for axes in rows:
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xticks(range(len(cases)), map(in_words, cases))
    return figure, rows


def against_baseline(axes: Axes, what: str, above: str) -> None:
    """Label an axis of ratios, and draw a line at one."""
    axes.set_ylabel(f"{what} / baseline\n({above} above)")
    axes.axhline(1, color="#555555", linewidth=0.8, linestyle=":")


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


def finish(figure: Figure, title: str, path: Path, below: bool = False) -> None:
    """Add a legend, above the first panel or below all, and a title, and write the file."""
    first = figure.axes[0]
    lines, names = first.get_legend_handles_labels()
    if below:
        figure.legend(lines, names, frameon=False, ncols=3, loc="outside lower center")
    else:
        at = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        first.legend(frameon=False, ncols=len(names), **at)
    save(figure, title, path)


def save(figure: Figure, title: str, path: Path) -> None:
    """Add a title, and write the file."""
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def in_words(case: Key) -> str:
    """A case."""
    length, batch_size, precision = case
    return f"T = {length:,}, batch {batch_size}\n{precision}"


def cases_of(results: Report) -> list[Key]:
    """The cases, in order."""
    return list(dict.fromkeys(each.case for each in results.measurements))


def modes_of(results: Report) -> list[str]:
    """The modes, in order."""
    return list(dict.fromkeys(each.mode for each in results.measurements))
