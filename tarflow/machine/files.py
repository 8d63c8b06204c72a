"""Files that are written whole or not at all."""

import errno
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from torch import Tensor

from tarflow.errors import DataError


def put(new: Path, path: Path) -> None:
    """Give a file or a folder that is complete its name, in place of a file that has it.

    What it holds is on the disk before its name is: without that, some file systems leave an empty
    file under the name when the power fails.
    """
    for each in (*new.rglob("*"), new) if new.is_dir() else (new,):
        _to_disk(each)
    os.replace(new, path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until the disk holds a file, or a folder's names, where the system can tell."""
    windows = not hasattr(os, "O_DIRECTORY")
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that is to replace one; a failure leaves what was there before."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        put(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file; a failure leaves what was there before."""
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def listed(value: Any) -> Any:
    """Numbers of NumPy and torch as plain ones, for JSON."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    raise TypeError(f"{value!r} cannot be kept in a file")


def json_text(content: Any, default: Callable[[Any], Any] = listed, indent: int = 2) -> str:
    """Valid JSON of some content, which every reader takes: null stands for NaN and infinity.

    The default makes what JSON keeps of what it does not know.
    """
    text = json.dumps(content, default=default)
    finite = json.loads(text, parse_constant=lambda name: None)
    return json.dumps(finite, indent=indent, allow_nan=False) + "\n"


@contextmanager
def writing(folder: Path, more: str = "") -> Iterator[None]:
    """Tell which folder could not be written, what to do, and what more there is to say.

    Raises:
        DataError: A file could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{folder} cannot be written ({reason}): make room, or see to its permissions, and"
            f" give the same command again{more}"
        ) from error


def check_writable(folder: Path) -> None:
    """Write to a folder, made if need be, to know before any work whether that is possible."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        probe.write_bytes(bytes(4096))
    finally:
        probe.unlink(missing_ok=True)
