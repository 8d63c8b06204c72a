"""Reads a Dockerfile: its stages, their instructions, and what variables stand for in them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template


@dataclass(frozen=True)
class Instruction:
    """One instruction, on a single line.

    Attributes:
        keyword: `RUN`, `COPY` and so on.
        value: What follows, variables as they are written.
    """

    keyword: str
    value: str


@dataclass
class Stage:
    """One image that a Dockerfile makes.

    Attributes:
        name: What `COPY --from` calls it.
        base: What it starts from.
        instructions: What is done to it, in order.
    """

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def values(self, keyword: str) -> list[str]:
        """What follows each instruction of a kind."""
        return [step.value for step in self.instructions if step.keyword == keyword]

    @property
    def environment(self) -> dict[str, str]:
        """What `ENV` sets, in the end."""
        return {name: value for text in self.values("ENV") for name, value in assignments(text)}


@dataclass
class Dockerfile:
    """The stages, and the build arguments with their values.

    Attributes:
        arguments: Every `ARG` with a default, or with what replaces it.
        stages: In their order.
    """

    arguments: dict[str, str]
    stages: list[Stage]

    @classmethod
    def read(cls, path: Path, replaced: Mapping[str, str] | None = None) -> "Dockerfile":
        """Read a file; build arguments may be replaced as by `--build-arg`."""
        file = cls({}, [])
        for step in instructions(path.read_text()):
            if step.keyword == "FROM":
                base, _, name = step.value.partition(" AS ")
                file.stages.append(Stage(name, file.expand(base)))
            elif step.keyword == "ARG" and "=" in step.value:
                name, value = assignments(step.value)[0]
                file.arguments[name] = (replaced or {}).get(name, file.expand(value))
            if file.stages and step.keyword != "FROM":
                file.stages[-1].instructions.append(step)
        return file

    def expand(self, text: str) -> str:
        """Put in build arguments."""
        return Template(text).substitute(self.arguments)


def instructions(text: str) -> list[Instruction]:
    """Join continued lines, and leave out comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in joined if line.strip()]


def assignments(text: str) -> list[tuple[str, str]]:
    """The names and values of `A=1 B="2 3"`."""
    pairs = re.findall(r'(\w+)=("[^"]*"|\S*)', text)
    return [(name, value.strip('"')) for name, value in pairs]
