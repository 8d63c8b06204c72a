"""A page of Markdown that keeps its words, and gets what stands between marks anew."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tarflow.errors import ConfigurationError
from tarflow.machine.files import write_atomically

END = "<!-- end -->"
"""Tables stand between a mark, such as `<!-- table: scale -->`, and the next of these."""
NOTHING = "Not measured."
"""What stands in place of a table without results."""


def write_page(page: Path, blocks: Mapping[str, str], blank: str) -> None:
    """Bring a page up to date, or make it of a blank one.

    Raises:
        ConfigurationError: The page marks a table that is not known, or does not end it.
    """
    text = with_blocks(page.read_text() if page.exists() else blank, blocks)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, text)


def with_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """A page's text with what is between its marks brought up to date."""

    def replace(match: re.Match) -> str:
        if match["name"] not in blocks:
            raise ConfigurationError(
                f"the page marks a table {match['name']!r}: known are {', '.join(blocks)}"
            )
        return f"{match['mark']}\n\n{blocks[match['name']]}\n\n{END}"

    pattern = r"(?P<mark><!-- table: (?P<name>\S+) -->)\n.*?" + re.escape(END)
    done = re.sub(pattern, replace, text, flags=re.DOTALL)
    marked, ended = text.count("<!-- table: "), text.count(END)
    if marked != ended:
        raise ConfigurationError(f"the page has {marked} tables, but {ended} times {END}")
    return done


def empty(name: str) -> str:
    """A heading and marks of a name, for a blank page."""
    return f"## {name}\n\n<!-- table: {name} -->\n{END}\n"


def markdown(head: Sequence[str], *rows: Sequence[str]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
