"""A page of Markdown whose tables and pictures show what the runs have left."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tarflow.ablation.claims import Quantity, Results, Section
from tarflow.ablation.sections import SECTIONS
from tarflow.errors import ConfigurationError
from tarflow.evaluation.reporting import mean_and_deviation
from tarflow.machine.files import write_atomically

MARK = "<!-- {kind}: {name} -->"
"""Tables stand between a mark and the next `<!-- end -->`."""
END = "<!-- end -->"


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
    from tarflow.ablation.plots import draw

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
    parts = [_numbers(section, results, data) for data in _data_of(results)]
    if section.claims:
        parts.append(_claims(section, results))
    return "\n\n".join(part for part in parts if part)


def _numbers(section: Section, results: Results, data: str) -> str:
    """Means and deviations over seeds; nothing where nothing was measured."""
    rows, measured = [[data, *(heading for heading, _ in section.columns)]], False
    for words, variant in section.rows:
        cells = [
            _cell(Quantity(variant, path.replace("RULE", words)), results, data)
            for _, path in section.columns
        ]
        measured = measured or any(cells)
        rows.append([words, *cells])
    return _markdown(rows) if measured else ""


def _cell(quantity: Quantity, results: Results, data: str) -> str:
    """Mean and deviation over seeds."""
    values = list(quantity.of(results, data).values())
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = mean_and_deviation([float(value) for value in known])
    mean, deviation = spread["mean"], spread["deviation"]
    if quantity.path in ("parameters", "steps"):
        words = f"{mean:,.0f}"
    else:
        words = f"{mean:.3f} ± {deviation:.3f}"
    return words if len(known) == len(values) else f"{words} ({len(known)} of {len(values)} seeds)"


def _claims(section: Section, results: Results) -> str:
    """Every claim, and what the runs say."""
    names = list(_data_of(results))
    rows = [["claim", *names]]
    for claim in section.claims:
        rows.append([claim.words, *(claim.verdict(results, data) for data in names)])
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _data_of(results: Results) -> Iterator[str]:
    """The data sets, in the order of the runs."""
    yield from dict.fromkeys(result["settings"]["data"] for result in results)


def _blank() -> str:
    """A page with all tables."""
    parts = [f"## {s.name}\n\n{MARK.format(kind='table', name=s.name)}\n{END}\n" for s in SECTIONS]
    pictures = "![Distances](images/ablations.png)\n\n![Guidance](images/ablations_guidance.png)\n"
    return "\n".join(["# Ablations\n", pictures, *parts])
