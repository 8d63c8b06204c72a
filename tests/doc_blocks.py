"""The fenced blocks of code in pages of Markdown, and the commands in those of a shell."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
OUTPUT = ("", "text")
"""Languages of blocks that show what something prints, or how files lie."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file that it is in.
        line: The number of its first line there, from 1.
        language: What follows the fence.
        text: What is between the fences, without their indentation.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, of lines joined where they go on; `&&` starts another."""
        joined = self.text.replace("\\\n", " ")
        found = []
        for line in joined.splitlines():
            words = shlex.split(line, comments=True)
            found += [part for part in split(words, "&&") if part]
        return found


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, but those that show output."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        indent, language = match["indent"], match["language"].strip()
        lines = [line.removeprefix(indent) for line in match["text"].splitlines(keepends=True)]
        line = text.count("\n", 0, match.start()) + 2
        if language not in OUTPUT:
            found.append(Block(page, line, language, "".join(lines)))
    return found


def split(words: list[str], separator: str) -> Iterator[list[str]]:
    """Divide a list at a word."""
    part: list[str] = []
    for word in words:
        if word == separator:
            yield part
            part = []
        else:
            part.append(word)
    yield part
