"""Files that are written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tarflow.errors import DataError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file; a failure leaves what was there before."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell which folder could not be written, and what to do.

    Raises:
        DataError: A file could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{folder} cannot be written ({reason}): make room, or see to its permissions, and"
            " give the same command again"
        ) from error


def check_writable(folder: Path) -> None:
    """Write to a folder, which is there, to know before any work whether that is possible.

    Raises:
        DataError: It is not.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    with writing(folder):
        try:
            probe.write_bytes(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
