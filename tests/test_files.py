"""Files that are written whole or not at all."""

import os

import pytest

from tarflow.data import digits, prepare
from tarflow.machine.files import write_atomically
from tarflow.sampling.sample_folder import SampleFolder
from tests.models import tiny_flow


@pytest.mark.parametrize("content", ["a µ\n", b"\x00\xff", "", b""])
def test_content(tmp_path, content):
    write_atomically(tmp_path / "file", content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "file").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_whoever_reads_meanwhile_sees_the_old_content_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old content")
    with path.open("rb", buffering=0) as file:
        assert file.read(3) == b"old"
        write_atomically(path, "new")
        assert file.read() == b" content"
    assert path.read_text() == "new"


def test_failure_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "kept").write_text("kept")
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file" / "kept").read_text() == "kept"


def test_failure_to_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "lone surrogate \ud800")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "file", "content")


@pytest.fixture
def disk(monkeypatch):
    """What is asked of the disk, in order: files it must hold, and names it must change."""
    asked, fsync, replace = [], os.fsync, os.replace

    def recorded_fsync(descriptor):
        asked.append(("hold", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def recorded_replace(source, target):
        asked.append(("rename", os.path.basename(source), os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    monkeypatch.delattr(os, "rename")
    return asked


def assert_held_before_named(disk, *names):
    """Each name was given to what the disk held already, and the disk holds the name."""
    for name in names:
        [place] = [i for i, each in enumerate(disk) if each[0] == "rename" and each[2] == name]
        new = disk[place][1]
        assert ("hold", new) in disk[:place]
        assert disk[place + 1][0] == "hold"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, disk):
    write_atomically(tmp_path / "file", "content")
    assert disk == [
        ("hold", ".file.new"),
        ("rename", ".file.new", "file"),
        ("hold", tmp_path.name),
    ]


def test_everything_that_replaces_is_on_the_disk_first(tmp_path, disk):
    tiny_flow().save_pretrained(tmp_path)
    assert_held_before_named(disk, "model.safetensors", "config.json")
    (tmp_path / "shards").mkdir()
    SampleFolder(tmp_path).keep_settings({"seed": 1})
    assert_held_before_named(disk, "settings.json")
    prepare(digits(), tmp_path / "prepared")
    assert_held_before_named(disk, "prepared")
    held = {name for kind, name, *_ in disk if kind == "hold"}
    assert held >= {path.name for path in (tmp_path / "prepared").iterdir()}
