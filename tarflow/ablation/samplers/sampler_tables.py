"""The page of the study of samplers: a table for each data set, with guidance and without."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tarflow.ablation.claims import Quantity, Results, data_of
from tarflow.ablation.data_sets import DATA
from tarflow.ablation.marked_page import empty, markdown, write_page
from tarflow.ablation.samplers.methods import METHODS
from tarflow.ablation.samplers.sampler_plot import PICTURE, draw
from tarflow.ablation.small_flow import FITTED

COLUMNS = (
    ("distance", "samples/{}/frechet_distance"),
    ("kernel distance", "samples/{}/kernel_distance"),
    ("precision", "samples/{}/precision"),
    ("recall", "samples/{}/recall"),
    ("accuracy", "samples/{}/accuracy"),
    ("ms, 1 at a time", "milliseconds/{}/batch_1"),
    ("ms, 64 at a time", "milliseconds/{}/batch_64"),
    ("training, s", "training/own"),
    ("with the flow, s", "training/in_all"),
)
"""Headings, and where a run has the number of a way to draw."""

REAL = "real held-out images"


@dataclass(frozen=True)
class SamplerRow:
    """A way to draw samples.

    Attributes:
        words: What it is called in tables.
        variant: What fitted the model.
        way: What it is called in results.
        passes: Number of passes of a student; 0 for a flow.
    """

    words: str
    variant: str
    way: str
    passes: int = 0


def ways(results: Results, guided: bool) -> Iterator[SamplerRow]:
    """The ways in which samples were drawn, in order."""
    for panel in ("not denoised", "denoised"):
        for way in _of(results, FITTED.name, guided):
            if way.endswith(f", {panel}"):
                yield SamplerRow(f"exact, {panel}", FITTED.name, way)
    for method in METHODS.values():
        for way in _of(results, method.name, guided):
            passes = way.rpartition(", ")[2]
            number = int(passes.partition(" ")[0])
            yield SamplerRow(f"{method.words}, {passes}", method.name, way, number)


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
        return "Not measured."
    rows = [
        [drawn.words, *(_cell(results, data, drawn, path) for _, path in COLUMNS)]
        for drawn in ways(results, guided)
    ]
    rows.append([REAL, *(_real(results, data, path) for _, path in COLUMNS)])
    kept = [i for i in range(len(COLUMNS) + 1) if any(row[i] for row in rows)]
    head = ["samples", *(heading for heading, _ in COLUMNS)]
    return markdown([head[i] for i in kept], *([row[i] for i in kept] for row in rows))


def _cell(results: Results, data: str, drawn: SamplerRow, path: str) -> str:
    """A number of samples that were drawn in a way."""
    return _spread(Quantity(drawn.variant, path.format(drawn.way)).spread(results, data))


def _real(results: Results, data: str, path: str) -> str:
    """A number of real images."""
    place, _, name = path.rpartition("/")
    if not place.startswith("samples"):
        return ""
    return _spread(Quantity(FITTED.name, f"real/{name}").spread(results, data))


def _spread(found: tuple[float, float] | None) -> str:
    """Mean and deviation, with as many digits as mean something."""
    if found is None:
        return ""
    mean, deviation = found
    return f"{mean:.3g} ± {deviation:.1g}" if deviation else f"{mean:.3g}"


def fill(page: Path, results: Results) -> list[Path]:
    """Bring the tables and the plot of a page up to date; returns the files that were written."""
    found = blocks(results)
    blank = "\n".join(["# Samples in few passes\n", *(empty(name) for name in found)])
    picture = draw(page.parent / "images" / PICTURE, results, _lines(results))
    write_page(page, found, blank)
    return [page, picture]


def _lines(results: Results) -> dict[str, Sequence[SamplerRow]]:
    """What the plot joins by a line: the ways of each model, with guidance and without."""
    lines: dict[str, list[SamplerRow]] = {}
    words = {FITTED.name: "exact", **{name: method.words for name, method in METHODS.items()}}
    for guided in (False, True):
        for drawn in ways(results, guided):
            name = words[drawn.variant] + ", guided" * guided
            lines.setdefault(name, []).append(drawn)
    return dict(lines)
