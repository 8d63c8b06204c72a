"""Where numbers come from."""

import hashlib
import platform
import subprocess

import numpy as np
import torch

from tarflow import Context
from tarflow.data.loading.batches import Batch
from tarflow.evaluation.provenance import (
    content_of,
    digests,
    git_revision,
    sha256_of,
    software,
)


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_content_does_not_depend_on_batches():
    pixels = torch.randint(0, 256, (7, 1, 2, 2), dtype=torch.uint8)
    label = torch.arange(-1, 6)
    rows = [
        hashlib.sha256(image.numpy().tobytes() + number.numpy().tobytes()).digest()
        for image, number in zip(pixels, label, strict=True)
    ]
    indices = torch.arange(7)
    for size in (1, 3, 7):
        parts = zip(*(rows.split(size) for rows in (pixels, label, indices)), strict=True)
        batches = [Batch(x, Context(label=y), index) for x, y, index in parts]
        found = np.concatenate([digests(batch) for batch in batches])
        assert content_of(found) == hashlib.sha256(b"".join(rows)).hexdigest()


def test_content_tells_every_part_of_a_context():
    pixels, label = torch.zeros(2, 1, 2, 2), torch.tensor([-1, -1])
    contexts = [
        {},
        {"label": label},
        {"label": label, "dose": torch.zeros(2)},
        {"label": label, "dose": torch.ones(2)},
        {"label": label + 1},
    ]
    found = [
        content_of(digests(Batch(pixels, Context(**parts), torch.arange(2)))) for parts in contexts
    ]
    assert found[0] == found[1]  # as it always was: no label is -1
    assert len(set(found)) == 4


def test_hash_of_a_file(tmp_path):
    (tmp_path / "weights").write_bytes(b"abc" * 1000)
    assert sha256_of(tmp_path / "weights") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_revision_of_a_checkout(tmp_path):
    assert git_revision(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_revision(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_revision(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert git_revision(tmp_path) == f"{commit}-dirty"


def test_revision_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert git_revision(tmp_path) is None


def test_versions():
    found = software()
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["tarflow"] is not None
