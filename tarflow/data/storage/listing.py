"""Which files below a folder, or in an archive, are pictures, and what else lies there."""

import os
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

from tarflow.errors import DataError

SYSTEM = ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found")
"""What systems leave in folders, besides what is hidden by a dot."""

NO_DECODERS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""What Pillow recognizes but does not decode by itself."""

MADE = {
    "config.json": b'"run_dir"',
    "meta.json": b'"sha256"',
    "certificates.csv": b"",
    "multirun.yaml": b"",
    ".hydra": None,
}
"""What a folder that a command made has in it, and what that file holds."""

HIDDEN, KINDS, RUNS = "hidden or of the system", "of other kinds", "written by a command"
NUM_SHOWN = 3


@cache
def extensions() -> frozenset[str]:
    """The extensions of what Pillow decodes here, in lower case, as in `.png`."""
    Image.init()
    decoded = Image.OPEN.keys() - set(NO_DECODERS)
    return frozenset(e for e, kind in Image.registered_extensions().items() if kind in decoded)


def reason_against(path: str) -> str | None:
    """Why the file at a path is not taken for a picture; None for one that is."""
    if any(map(_is_hidden, path.split("/"))):
        return HIDDEN
    return None if os.path.splitext(path)[1].lower() in extensions() else KINDS


class Listing:
    """The pictures below a folder, and what is left out.

    Attributes:
        pictures: Their relative paths, folder by folder in the order of names.
        folders: The relative paths of all folders that may hold pictures.
        left_out: Relative paths of files and folders, by the reason.

    Raises:
        DataError: A folder cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.folders: list[str] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)
        found: list[tuple[str, str]] = []
        for where, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
            inside = Path(where).relative_to(folder).as_posix().removeprefix(".")
            folders[:] = [name for name in folders if self._enters(_join(inside, name))]
            found += [(inside, name) for name in files if self._takes(inside, name)]
        self.pictures = [_join(*path) for path in sorted(found)]

    def _enters(self, path: str) -> bool:
        """Whether pictures are looked for in a folder."""
        folder = self.folder / path
        if _is_hidden(folder.name):
            self.left_out[HIDDEN].append(path)
        elif _is_made(folder):
            self.left_out[RUNS].append(path)
        elif not _leads_back(folder):
            self.folders.append(path)
            return True
        return False

    def _takes(self, inside: str, name: str) -> bool:
        """Whether a file is a picture."""
        reason = reason_against(name)
        if reason:
            self.left_out[reason].append(_join(inside, name))
        return reason is None


def summary(left_out: Mapping[str, list[str]]) -> str:
    """What is left out, in words: how much, why, and some names or kinds."""
    return "; ".join(map(_words, sorted(left_out), map(left_out.__getitem__, sorted(left_out))))


def _words(reason: str, paths: list[str]) -> str:
    """What is left out for a reason."""
    shown = {PurePosixPath(path).name for path in paths}
    if reason == KINDS:
        shown = {PurePosixPath(path).suffix or PurePosixPath(path).name for path in paths}
    more = ", ..." if len(shown) > NUM_SHOWN else ""
    return f"{len(paths):,} {reason} ({', '.join(sorted(shown)[:NUM_SHOWN])}{more})"


def _join(inside: str, name: str) -> str:
    """The relative path of what lies in a folder."""
    return f"{inside}/{name}" if inside else name


def _is_hidden(name: str) -> bool:
    """Whether a name is of a file or folder that people do not see."""
    return name.startswith(".") or name.lower() in SYSTEM


def _is_made(folder: Path) -> bool:
    """Whether a command of this package, or Hydra, wrote a folder."""
    for name, content in MADE.items():
        path = folder / name
        if path.is_dir() if content is None else path.is_file() and content in path.read_bytes():
            return True
    return False


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error
