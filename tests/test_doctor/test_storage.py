"""Folders that cannot be written to, and scarce space, are found by writing."""

import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from tarflow.doctor.findings import State
from tarflow.doctor.storage import check_folder, check_shared_memory, find_folders, nearest

Usage = namedtuple("Usage", "total used free")


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path):
    finding = check_folder("output", tmp_path / "a" / "b", State.BROKEN)
    assert finding.state is State.GOOD
    assert nearest(tmp_path / "a" / "b") == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/outputs"])
def test_a_file_in_place_of_a_folder_is_broken(tmp_path, name):
    (tmp_path / "file").write_text("")
    finding = check_folder("output", tmp_path / name, State.BROKEN)
    assert finding.state is State.BROKEN
    assert f"{tmp_path / 'file'} is not a folder" in finding.text


@pytest.fixture
def nobody() -> Iterator[None]:
    """Give up being root, whom no permission stops, for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_folder_of_someone_else_is_broken(tmp_path, nobody):
    finding = check_folder("output", Path("/etc/outputs"), State.BROKEN)
    assert finding.state is State.BROKEN
    assert f"/etc cannot be written to as uid {os.geteuid()}" in finding.text


def test_little_shared_memory_is_a_warning_that_tells_what_helps(tmp_path, monkeypatch):
    assert check_shared_memory(tmp_path / "none").state is State.NOTE
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**26, 0, 2**26))
    finding = check_shared_memory(tmp_path)
    assert finding.state is State.WARNING
    assert "--shm-size" in finding.text


def test_a_user_without_a_name_is_told_of(tmp_path, monkeypatch):
    def nameless(uid: int):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nameless)
    findings = {finding.name: finding for finding in find_folders(tmp_path)}
    assert "set USER" in findings["compiled code"].text
    assert "set HOME" in findings["home"].text
    assert findings["home"].state is State.WARNING


def test_caches_are_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    findings = {finding.name: finding for finding in find_folders(tmp_path)}
    assert str(tmp_path / "inductor") in findings["compiled code"].text
