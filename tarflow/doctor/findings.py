"""What a check found, and how bad it is."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How bad a finding is; only what is broken keeps training from working."""

    GOOD = "ok"
    NOTE = ""
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    topic: str  # what belongs together in a table
    name: str  # of what was checked
    state: State
    text: str  # what was found, and what helps
