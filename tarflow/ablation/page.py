"""A page of Markdown whose tables and pictures show what the runs have left."""

from pathlib import Path

from tarflow.ablation.claims import Quantity, Results, Section, data_of, verdicts
from tarflow.ablation.marked_page import empty, markdown, with_blocks, write_page
from tarflow.ablation.plots import draw
from tarflow.ablation.sections import SECTIONS

PICTURES = """![Distances](images/ablations.png)

![Guidance](images/ablations_guidance.png)

![What later papers changed](images/ablations_later.png)
"""


def fill(page: Path, results: Results) -> list[Path]:
    """Bring the tables and pictures of a page up to date; what else is written there stays.

    A page with all tables is made where there is none; pictures go to `images/` beside it.

    Returns:
        The files that were written.

    Raises:
        ConfigurationError: The page marks a table that is not known, or does not end it.
    """
    blank = "\n".join(["# Ablations\n", PICTURES, *(empty(s.name) for s in SECTIONS)])
    write_page(page, _blocks(results), blank)
    return [page, *draw(page.parent / "images", results)]


def filled(text: str, results: Results) -> str:
    """A page's text with its tables brought up to date."""
    return with_blocks(text, _blocks(results))


def _blocks(results: Results) -> dict[str, str]:
    """The tables by name."""
    return {section.name: table(section, results) for section in SECTIONS}


def tables(results: Results) -> str:
    """All tables, with headings."""
    return "\n\n".join(f"## {s.name}\n\n{table(s, results)}" for s in SECTIONS)


def table(section: Section, results: Results) -> str:
    """A section's numbers on every data set, and what they say of its claims."""
    names = data_of(results)
    parts = [_numbers(section, results, data) for data in names]
    if section.claims:
        parts.append(verdicts(section.claims, results))
    return "\n\n".join(part for part in parts if part)


def _numbers(section: Section, results: Results, data: str) -> str:
    """Means and deviations over seeds; nothing where nothing was measured."""
    rows = []
    for words, variant in section.rows:
        paths = (path.replace("RULE", words) for _, path in section.columns)
        rows.append([words, *(_cell(Quantity(variant, path), results, data) for path in paths)])
    if not any(cell for _, *cells in rows for cell in cells):
        return ""
    return markdown([data, *(heading for heading, _ in section.columns)], *rows)


def _cell(quantity: Quantity, results: Results, data: str) -> str:
    """Mean and deviation over seeds."""
    spread = quantity.spread(results, data)
    if spread is None:
        return ""
    mean, deviation = spread
    is_count = quantity.path in ("parameters", "steps")
    words = f"{mean:,.0f}" if is_count else f"{mean:.3f} ± {deviation:.3f}"
    values = list(quantity.of(results, data).values())
    known = len(values) - values.count(None)
    return words if known == len(values) else f"{words} ({known} of {len(values)} seeds)"
