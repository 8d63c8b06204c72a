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
    """What a check found.

    Attributes:
        topic: What it belongs to.
        name: What was checked.
        state: How bad it is.
        text: What was found, and what helps.
    """

    topic: str
    name: str
    state: State
    text: str
