"""Brings docs/benchmarks.md up to date with the results that are committed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.plot import (
    cases_of,
    draw_lengths,
    draw_peers,
    draw_sampling,
    draw_training,
    in_words,
    modes_of,
)
from benchmarks.results import Key, Report, percent
from benchmarks.sampling_results import LengthResults, Measurement, PeerResults, Results
from benchmarks.training_results import TrainingResults
from tarflow.ablation.marked_page import empty, markdown, write_page

BOUNDS = [
    *(("rms", bound) for bound in (0.1, 1e-2, 1e-3, 1e-4)),
    *(("maximum", bound) for bound in (1.0, 0.1, 1e-2, 1e-3)),
]
"""Deviations within which the decoders of the peers' table are compared."""
PLACE = ("T, batch", "precision")


def fill(page: Path, folder: Path) -> list[Path]:
    """Bring the tables and pictures of a page up to date; returns the files that were written.

    Args:
        page: The page; made of nothing but tables where there is none.
        folder: Of the results.
    """
    written = [page]
    for kind, (_, draw) in SECTIONS.items():
        for report in read(kind, folder):
            written.append(page.parent / "images" / picture(report))
            draw(report, written[-1])
    found = blocks(folder)
    blank = "\n".join(["# Benchmarks\n", *(empty(name) for name in found)])
    write_page(page, found, blank)
    return written


def blocks(folder: Path) -> dict[str, str]:
    """What stands between the marks of the page: for each kind of results, every device."""
    found = {"machines": machines(folder)}
    for kind, (tables, _) in SECTIONS.items():
        told = [section(report, tables) for report in read(kind, folder)]
        found[kind.prefix] = "\n\n".join(told) or "Not measured."
    return found


def read(kind: type[Report], folder: Path) -> list[Any]:
    """The results of a kind, by the names of their files."""
    return [kind.read(path) for path in sorted(folder.glob(f"{kind.prefix}-*.json"))]


def picture(report: Report) -> str:
    """The name of the file."""
    return f"{report.prefix}-{report.slug}.png"


def section(report: Report, tables: Callable[[Any], list[str]]) -> str:
    """What a page shows of a device."""
    title = f"**{report.device}**, torch {report.environment['torch'].partition('+')[0]}"
    image = f"![{report.title} on {report.device}](images/{picture(report)})"
    return "\n\n".join([title, image, *tables(report), *report.notes])


def machines(folder: Path) -> str:
    """What the devices do at best, as measured before each benchmark."""
    rows = []
    for report in (each for kind in SECTIONS for each in read(kind, folder)):
        rates = (f"{name} {rate / 1e9:,.0f}" for name, rate in report.machine.rate.items())
        copies = report.machine.bandwidth.values()
        spread = f"{min(copies) / 1e9:,.0f} to {max(copies) / 1e9:,.0f}"
        rows.append((report.device, report.prefix, ", ".join(rates), spread))
    return markdown(("device", "before", "products, GFLOP/s", "copies, GB/s"), *rows)


def speeds(results: Results) -> str:
    """A row for each case: images per second, of the baseline's, and the share of the roofline."""
    modes, rows = modes_of(results), []
    for case in cases_of(results):
        own = {each.mode: each for each in results.measurements if each.case == case}
        fastest = min(own.values(), key=lambda each: each.median)
        cells = {mode: f"{each.images_per_second:.3g}" for mode, each in own.items()}
        for mode, each in own.items():
            ratio = "" if mode == "baseline" else f"{results.ratio(each):.2f} x, "
            cells[mode] += f" ({ratio}{percent(each.roofline)})"
        cells[fastest.mode] = f"**{cells[fastest.mode]}**"
        best = f"{results.ratio_to_best(fastest):.2f} x"
        rows.append((*place(case), *(cells.get(mode, "") for mode in modes), best))
    return markdown((*PLACE, *modes, "fastest against the baseline's best"), *rows)


def equal_deviation(results: PeerResults) -> list[str]:
    """For each case, the speed of every decoder's fastest setting within some deviations."""
    tables = []
    for case in cases_of(results):
        rows = []
        for kind, bound in BOUNDS:
            found = [results.fastest(case, name, kind, bound) for name in results.families]
            words = {"rms": "RMS", "maximum": "largest"}[kind]
            rows.append((f"{words} ≤ {bound:g}", *map(with_setting, found)))
        tables.append(markdown((", ".join(in_words(case).split("\n")), *results.families), *rows))
    return tables


def with_setting(found: Measurement | None) -> str:
    """Images per second, the setting that reached them, and the share of the roofline."""
    if found is None:
        return "-"
    told = [found.mode.partition(", ")[2], percent(found.roofline)]
    return f"{found.images_per_second:.3g} ({', '.join(filter(None, told))})"


def growth(results: LengthResults) -> list[str]:
    """The exponents, and what they were fitted to."""
    rows = []
    for each in results.exponents():
        told = ("T", f"batch {each.fixed}")
        if each.over == "batch_size":
            told = ("batch", f"T = {each.fixed:,}")
        exponent = f"{each.slope:.2f} ± {each.error:.2f}"
        rows.append((f"{each.mode}, {each.precision}", *told, exponent, str(each.points)))
    return [markdown(("mode", "power of", "at", "exponent", "points"), *rows), speeds(results)]


def training(results: TrainingResults) -> list[str]:
    """A row for each mode, and how long steps wait for data."""
    rows = [
        (
            *place(each.case),
            each.mode,
            f"{each.steps_per_second:.2f}",
            f"{results.ratio(each):.2f}",
            f"{results.ratio_to_best(each):.2f}",
            f"{100 * each.utilization:.1f} %",
            f"{each.peak_bytes / 2**20:,.0f} MiB",
        )
        for each in results.measurements
    ]
    head = (*PLACE, "mode", "steps/s", "ratio", "to the baseline's best", "MFU", "peak memory")
    waits = (f"{w.source} {percent(w.share)} ({w.precision})" for w in results.loading)
    return [markdown(head, *rows), f"Waiting for data, of a step: {'; '.join(waits)}."]


def place(case: Key) -> tuple[str, str]:
    """What the first columns tell of a case."""
    length, batch_size, precision = case
    return f"{length:,}, {batch_size}", precision


SECTIONS: dict[type[Report], tuple[Callable[[Any], list[str]], Callable[[Any, Path], None]]] = {
    Results: (lambda results: [speeds(results)], draw_sampling),
    PeerResults: (equal_deviation, draw_peers),
    LengthResults: (growth, draw_lengths),
    TrainingResults: (training, draw_training),
}
"""For each kind of results, its tables and its picture."""
