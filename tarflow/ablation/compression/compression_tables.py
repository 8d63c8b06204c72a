"""The page of the study of compression: a table for each data set, claims, and a plot."""

from collections.abc import Callable
from pathlib import Path

from tarflow.ablation.claims import Comparison, Quantity, Results, data_of, verdicts
from tarflow.ablation.compression.compression_plot import PICTURE, draw
from tarflow.ablation.compression.compression_runs import FLOWS, variant_of
from tarflow.ablation.compression.compressors import COMPRESSORS, HALF
from tarflow.ablation.marked_page import NOTHING, empty, markdown, write_page
from tarflow.ablation.small_flow import FITTED
from tarflow.ablation.ways_table import told

RISE = "rise/mean"
ROWS = (
    ("uncompressed", FITTED.name),
    ("uncompressed, tuned", f"{FITTED.name}_tuned"),
    *(
        (f"{each.words}, {share:g}{', tuned' * tuned}", variant_of(each.name, share, tuned))
        for each in COMPRESSORS.values()
        for share in each.shares
        for tuned in ((False, True) if share == HALF else (False,))
    ),
)
"""What they are called in tables, and in files."""


def _spread(quantity: Quantity, results: Results, data: str) -> str:
    """Mean and deviation over seeds."""
    return told(quantity.spread(results, data))


def _mean(unit: float, form: str) -> Callable[[Quantity, Results, str], str]:
    """The mean over seeds, in a unit."""

    def cell(quantity: Quantity, results: Results, data: str) -> str:
        found = quantity.spread(results, data)
        return "" if found is None else f"{found[0] / unit:{form}}"

    return cell


def _count(quantity: Quantity, results: Results, data: str) -> str:
    """In how many of the seeds it is true."""
    values = list(quantity.of(results, data).values())
    return f"{values.count(1.0)} of {len(values)}" if values else ""


COLUMNS = (
    ("loss", "loss", _spread),
    ("rise", RISE, _spread),
    ("error", "rise/standard_error", _mean(1.0, ".2g")),
    ("≤ 0.01", "is_small", _count),
    ("parameters", "parameters", _mean(1.0, ",.0f")),
    ("operations, M", "operations", _mean(1e6, ",.1f")),
    ("of MLPs, M", "mlp_operations", _mean(1e6, ",.1f")),
    ("cache, KiB", "cache_bytes", _mean(1024.0, ",.0f")),
    ("samples a second", "per_second/drawn", _spread),
)
"""Headings, where a run has the number, and what makes a cell of it."""


def _less(other: str, tuned: bool) -> Comparison:
    """A claim that the likelihood suffers less from decomposition than from a baseline."""
    pair = (variant_of(name, HALF, tuned) for name in ("decomposition", other))
    words = f"decomposition loses less than {COMPRESSORS[other].words}{', both tuned' * tuned}"
    return Comparison(words, *(Quantity(variant, RISE) for variant in pair))


CLAIMS = tuple(
    _less(other, tuned) for tuned in (False, True) for other in ("magnitude", "low_rank")
)
"""At half of the operations of MLPs."""


def blocks(results: Results) -> dict[str, str]:
    """What stands between the marks of the page: the tables, and the plot."""
    words = "What the likelihood loses, by what MLPs are left to compute"
    found = {"plot": f"![{words}](images/{PICTURE})"}
    known = data_of(results)
    found["claims"] = verdicts(CLAIMS, results) if known else NOTHING
    for data in FLOWS:
        found[data] = _table(results, data) if data in known else NOTHING
    return found


def fill(page: Path, results: Results) -> list[Path]:
    """Bring the tables and the plot of a page up to date; returns the files that were written."""
    found = blocks(results)
    blank = "\n".join(["# Compression\n", *(empty(name) for name in found)])
    picture = draw(page.parent / "images" / PICTURE, results)
    write_page(page, found, blank)
    return [page, picture]


def _table(results: Results, data: str) -> str:
    """All flows of a data set."""
    rows = []
    for words, variant in ROWS:
        if Quantity(variant, "loss").of(results, data):
            cells = (cell(Quantity(variant, p), results, data) for _, p, cell in COLUMNS)
            rows.append([words, *cells])
    return markdown(["flow", *(heading for heading, _, _ in COLUMNS)], *rows)
