"""Where a number comes from: the content of the data and the weights, and the software."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from tarflow.data.loading.batches import UNREADABLE, Batch


def digests(batch: Batch) -> UInt8[np.ndarray, "batch 32"]:
    """SHA-256 of every image and its conditions; without a label, that counts as -1.

    That of an image which could not be read is 0 throughout.
    """
    unlabelled = torch.full((len(batch.x),), -1)
    others = dict(sorted(batch.context.parts.items()))
    label = others.pop("label", unlabelled).long()
    columns = [part.numpy(force=True) for part in (batch.x, label, *others.values())]
    found = (
        hashlib.sha256(b"".join(value.tobytes() for value in row)).digest()
        for row in zip(*columns, strict=True)
    )
    rows = np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)
    return np.where(batch.index.numpy(force=True)[:, None] == UNREADABLE, np.uint8(0), rows)


def readable(digests: UInt8[np.ndarray, "count 32"]) -> Bool[np.ndarray, " count"]:
    """Which of some images could be read."""
    return np.asarray(digests.any(axis=1))


def of_readable(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of images that could be read, which are told by their digests."""
    return {name: column[readable(rows["digest"])] for name, column in rows.items()}


def content_of(digests: UInt8[np.ndarray, "count 32"]) -> str:
    """SHA-256 of all images and their conditions in their order."""
    return hashlib.sha256(digests.tobytes()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def software() -> dict[str, str | None]:
    """Versions of what computes, and the revision of a checkout."""
    try:
        ours = version("tarflow")
    except PackageNotFoundError:  # a checkout that is not installed
        ours = None
    return {
        "tarflow": ours,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "git_revision": git_revision(Path(__file__).parents[2]),
    }


def git_revision(folder: Path) -> str | None:
    """The commit that is checked out, `-dirty` where files differ; None outside of a checkout."""
    if not (folder / ".git").exists():
        return None
    describe = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*describe, "--exclude=*"], capture_output=True, text=True)
    except FileNotFoundError:  # git is not installed
        return None
    return done.stdout.strip() or None
