"""A bad input, and what the package has to make of it."""

import contextlib
import io
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tarflow import TarflowError

SECONDS = 20
"""After so long an attempt counts as hanging."""


@dataclass(frozen=True)
class BadInput:
    """Something that a user may give and that cannot be used.

    Attributes:
        name: What it is; no two have the same name.
        attempt: Gives it to the package, with an empty folder for files.
        causes: The message has to hold one of these.
        accepted: Whether it can be used after all, and must not be refused; None where either
            will do, as of bytes that were changed at random.
    """

    name: str
    attempt: Callable[[Path], Any]
    causes: tuple[str, ...]
    accepted: bool | None = False

    def fault(self, folder: Path) -> str | None:
        """What is wrong with the answer; None where nothing is."""
        printed = io.StringIO()
        try:
            with (
                _limited(),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(printed),
            ):
                self.attempt(folder)
        except TarflowError as error:
            return self._judge(str(error))
        except SystemExit as error:
            told = f"{error.code}\n{printed.getvalue()}"
            if not error.code or "Traceback" in told:
                return f"ended with {told}"
            return self._judge(told)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        return "was accepted" if self.accepted is False else None

    def _judge(self, message: str) -> str | None:
        """Whether a message names the cause."""
        if self.accepted:
            return f"was refused: {message}"
        if any(cause in message for cause in self.causes):
            return None
        return f"the message holds none of {self.causes}: {message}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Interrupt what hangs; warnings are not asked about."""

    def interrupt(number, frame):
        raise TimeoutError(f"it took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def calls(
    what: str,
    function: Callable[[Any], Any],
    values: dict[str, tuple[Any, tuple[str, ...]]],
    accepted: tuple[str, ...] = (),
) -> Iterator[BadInput]:
    """A call for each value: its name, the value, and what the message has to hold."""
    for name, (value, causes) in values.items():
        yield BadInput(
            f"{what}: {name}",
            lambda folder, value=value: function(value),
            causes,
            accepted=name in accepted,
        )
