"""Checks of folders: what has to be written to, and how much space is left."""

import getpass
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tarflow.doctor.findings import Finding, State
from tarflow.nn.probes import first_lines

GIB = 2**30
ENOUGH = 1.0
"""GiB; with less there is a warning."""

TEMPORARY = "set TMPDIR to a folder that can be written to"
SHARED = "workers hand batches over in it: docker run --ipc=host, or --shm-size=8g"


def find_folders(directory: Path, shared: Path = Path("/dev/shm")) -> list[Finding]:
    """Check the folder for runs, that for temporary files, shared memory and caches."""
    return [
        check_folder("output", directory, State.BROKEN),
        _check_usual("temporary", tempfile.gettempdir, TEMPORARY, State.BROKEN),
        check_shared_memory(shared),
        _check_usual("compiled code", _find_cache, "set USER, or TORCHINDUCTOR_CACHE_DIR"),
        _check_usual("home", Path.home, "set HOME"),
    ]


def check_folder(name: str, path: Path, worst: State, needs: str = "") -> Finding:
    """Write a file in a folder, or in the one it would be made in, and tell the space left."""
    there = nearest(path)
    if not there.is_dir():
        return Finding("folders", name, worst, f"{path}: {there} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
    except OSError as error:
        text = f"{path}: {there} cannot be written to as uid {os.geteuid()}: {error.strerror}"
        return Finding("folders", name, worst, text)
    free = shutil.disk_usage(there).free / GIB
    scarce = f"; less than {ENOUGH:g} GiB. {needs}".rstrip(". ") if free < ENOUGH else ""
    state = State.WARNING if scarce else State.GOOD
    return Finding("folders", name, state, f"{path}, {free:.1f} GiB free{scarce}")


def nearest(path: Path) -> Path:
    """A path, or the first of the folders above it that is there."""
    path = path.absolute()
    # os.path: unlike Path.exists, it raises nothing where a folder above cannot be read.
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def check_shared_memory(path: Path) -> Finding:
    """Check the folder by which the workers of a data loader hand batches over."""
    if not path.is_dir():
        return Finding("folders", "shared memory", State.NOTE, f"there is no {path}")
    return check_folder("shared memory", path, State.WARNING, SHARED)


def _check_usual(
    name: str, find: Callable[[], str | Path], advice: str, worst: State = State.WARNING
) -> Finding:
    """Check a folder that follows from the system and the environment."""
    try:
        path = Path(find())
    except (KeyError, OSError, RuntimeError) as error:  # any of them for a user without a name
        text = f"{first_lines(error)} (uid {os.geteuid()}): {advice}"
        return Finding("folders", name, worst, text)
    return check_folder(name, path, worst)


def _find_cache() -> str | Path:
    """Where torch.compile keeps what it made."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return given or Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")
