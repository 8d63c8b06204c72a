"""What a command says, wherever it goes: no terminal and no closed pipe ends its work."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch


class LastingStream:
    """A stream that goes on into nothing where its reader has left, as `head` does.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._do(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._do(self._stream.flush)

    def _do(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except BrokenPipeError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Speak to whoever listens: a letter that a terminal does not know becomes `?`."""
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            errors = getattr(stream, "errors", None)
            if hasattr(stream, "reconfigure") and errors == "strict":
                stream.reconfigure(errors="replace")
                stack.callback(stream.reconfigure, errors=errors)
            if stream is not None:
                lasting = LastingStream(stream)
                stack.enter_context(patch.object(sys, name, lasting))
                stack.callback(lasting.flush)
        yield
