"""Files that are written whole or not at all."""

import pytest

from tarflow.machine.files import write_atomically


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
