"""Where a number comes from: the content of the data and the weights, and the software."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
CHUNK = 2**24
"""Bytes read at a time."""


class ContentHash:
    """SHA-256 of images and labels in their order, however they are divided into batches."""

    def __init__(self):
        # One for each: in a single one, pixels and labels would take turns by batches.
        self._pixels, self._labels = hashlib.sha256(), hashlib.sha256()

    def add(self, pixels: Tensor, label: Tensor) -> None:
        """Take a batch."""
        self._pixels.update(pixels.numpy(force=True).tobytes())
        self._labels.update(label.long().numpy(force=True).tobytes())

    def __str__(self) -> str:
        return hashlib.sha256(self._pixels.digest() + self._labels.digest()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def software() -> dict[str, str | None]:
    """Versions of what computes, and the revision of a checkout."""
    return {
        "tarflow": _version("tarflow"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "git_revision": git_revision(ROOT),
    }


def git_revision(folder: Path) -> str | None:
    """The commit that is checked out, `-dirty` where files differ; None outside of a checkout."""
    if not (folder / ".git").exists():
        return None
    describe = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*describe, "--exclude=*"], capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return None
