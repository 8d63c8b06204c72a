"""The page of the study of samplers: a table for each data set, with guidance and without."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tarflow.ablation.claims import Results, data_of
from tarflow.ablation.data_sets import DATA
from tarflow.ablation.marked_page import NOTHING, empty, write_page
from tarflow.ablation.samplers.methods import METHODS
from tarflow.ablation.samplers.sampler_plot import PICTURE, draw
from tarflow.ablation.small_flow import FITTED
from tarflow.ablation.ways_table import QUALITY, WayRow, ways_table

COLUMNS = (
    *QUALITY,
    ("accuracy", "samples/{}/accuracy"),
    ("ms, 1 at a time", "milliseconds/{}/batch_1"),
    ("ms, 64 at a time", "milliseconds/{}/batch_64"),
    ("training, s", "training/own"),
    ("with the flow, s", "training/in_all"),
)
"""Headings, and where a run has the number of a way to draw."""


def ways(results: Results, guided: bool) -> Iterator[WayRow]:
    """The ways in which samples were drawn, in order."""
    for panel in ("not denoised", "denoised"):
        for way in _of(results, FITTED.name, guided):
            if way.endswith(f", {panel}"):
                yield WayRow(f"exact, {panel}", FITTED.name, way)
    for method in METHODS.values():
        for way in _of(results, method.name, guided):
            passes = way.rpartition(", ")[2]
            yield WayRow(f"{method.words}, {passes}", method.name, way)


def _of(results: Results, variant: str, guided: bool) -> list[str]:
    """The ways in which a variant's samples were drawn, with guidance or without."""
    found = [r["samples"] for r in results if r["settings"]["variant"] == variant]
    names = dict.fromkeys(way for samples in found for way in samples)
    return [way for way in names if way.startswith("guidance") == guided]


def blocks(results: Results) -> dict[str, str]:
    """What stands between the marks of the page: the tables, and the plot."""
    tables = {
        f"{data}{'_guided' * guided}": table(results, data, guided)
        for data in DATA
        for guided in (False, True)
    }
    return {"plot": f"![Quality against time](images/{PICTURE})", **tables}


def table(results: Results, data: str, guided: bool) -> str:
    """Means and deviations over seeds; columns of which nothing is known are left out."""
    if data not in data_of(results):
        return NOTHING
    return ways_table(results, data, list(ways(results, guided)), COLUMNS, FITTED.name)


def fill(page: Path, results: Results) -> list[Path]:
    """Bring the tables and the plot of a page up to date; returns the files that were written."""
    found = blocks(results)
    blank = "\n".join(["# Samples in few passes\n", *(empty(name) for name in found)])
    picture = draw(page.parent / "images" / PICTURE, results, _lines(results))
    write_page(page, found, blank)
    return [page, picture]


def _lines(results: Results) -> dict[str, Sequence[WayRow]]:
    """What the plot joins by a line: the ways of each model, with guidance and without."""
    lines: dict[str, list[WayRow]] = {}
    words = {FITTED.name: "exact", **{name: method.words for name, method in METHODS.items()}}
    for guided in (False, True):
        for drawn in ways(results, guided):
            name = words[drawn.variant] + ", guided" * guided
            lines.setdefault(name, []).append(drawn)
    return dict(lines)
