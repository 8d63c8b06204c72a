"""A page of Markdown whose tables and pictures show what the runs have left."""

import re
from collections.abc import Sequence
from pathlib import Path

from tarflow.ablation.claims import Quantity, Results, Section, data_of
from tarflow.ablation.plots import draw
from tarflow.ablation.sections import SECTIONS
from tarflow.errors import ConfigurationError
from tarflow.machine.files import write_atomically

END = "<!-- end -->"
"""Tables stand between a mark, such as `<!-- table: scale -->`, and the next of these."""


def fill(page: Path, results: Results) -> list[Path]:
    """Bring the tables and pictures of a page up to date; what else is written there stays.

    Args:
        page: The page; one with all tables is made where there is none. Pictures go to `images/`
            beside it.
        results: What the runs have left.

    Returns:
        The files that were written.

    Raises:
        ConfigurationError: The page marks a table that is not known, or does not end it.
    """
    text = page.read_text() if page.exists() else _blank()
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, filled(text, results))
    return [page, *draw(page.parent / "images", results)]


def filled(text: str, results: Results) -> str:
    """A page's text with its tables brought up to date."""
    sections = {section.name: section for section in SECTIONS}

    def replace(match: re.Match) -> str:
        if match["name"] not in sections:
            raise ConfigurationError(
                f"the page marks a table {match['name']!r}: known are {', '.join(sections)}"
            )
        return f"{match['mark']}\n\n{table(sections[match['name']], results)}\n\n{END}"

    pattern = r"(?P<mark><!-- table: (?P<name>\S+) -->)\n.*?" + re.escape(END)
    done = re.sub(pattern, replace, text, flags=re.DOTALL)
    marked, ended = text.count("<!-- table: "), text.count(END)
    if marked != ended:
        raise ConfigurationError(f"the page has {marked} tables, but {ended} times {END}")
    return done


def tables(results: Results) -> str:
    """All tables, with headings."""
    return "\n\n".join(f"## {s.name}\n\n{table(s, results)}" for s in SECTIONS)


def table(section: Section, results: Results) -> str:
    """A section's numbers on every data set, and what they say of its claims."""
    names = data_of(results)
    parts = [_numbers(section, results, data) for data in names]
    if section.claims:
        verdicts = (
            [claim.words, *(claim.verdict(results, data) for data in names)]
            for claim in section.claims
        )
        parts.append(_markdown(["claim", *names], *verdicts))
    return "\n\n".join(part for part in parts if part)


def _numbers(section: Section, results: Results, data: str) -> str:
    """Means and deviations over seeds; nothing where nothing was measured."""
    rows = []
    for words, variant in section.rows:
        paths = (path.replace("RULE", words) for _, path in section.columns)
        rows.append([words, *(_cell(Quantity(variant, path), results, data) for path in paths)])
    if not any(cell for _, *cells in rows for cell in cells):
        return ""
    return _markdown([data, *(heading for heading, _ in section.columns)], *rows)


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


def _markdown(head: Sequence[str], *rows: Sequence[str]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _blank() -> str:
    """A page with all tables."""
    parts = [f"## {s.name}\n\n<!-- table: {s.name} -->\n{END}\n" for s in SECTIONS]
    pictures = "![Distances](images/ablations.png)\n\n![Guidance](images/ablations_guidance.png)\n"
    return "\n".join(["# Ablations\n", pictures, *parts])
