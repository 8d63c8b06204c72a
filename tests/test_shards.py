"""Files of consecutive samples: whole, damaged, missing, overlapping."""

import numpy as np
import pytest

from tarflow import DataError
from tarflow.sampling.sample_shards import SampleShards


@pytest.fixture
def shards(tmp_path):
    return SampleShards(tmp_path)


def arrays(indices):
    """Two arrays that tell their indices."""
    numbers = np.arange(indices.start, indices.stop)
    return {"samples": np.stack([numbers] * 3, axis=1).astype(np.uint8), "labels": numbers % 4}


def write(shards, *pieces):
    for piece in pieces:
        shards.write(piece, arrays(piece))


def test_a_shard_is_read_as_it_was_written(shards):
    write(shards, range(3, 8))
    assert [path.name for path in shards.directory.iterdir()] == ["000003-000007.npz"]
    found = shards.load(range(3, 8))
    assert sorted(found) == ["indices", "labels", "samples"]
    assert found["samples"].dtype == np.uint8
    for name, array in arrays(range(3, 8)).items():
        assert np.array_equal(found[name], array)
    assert shards.found() == [range(3, 8)]


def test_names_have_room_for_millions(shards):
    write(shards, range(9_999_990, 10_000_010), range(10))
    assert shards.found() == [range(10), range(9_999_990, 10_000_010)]


def test_what_is_missing(shards):
    assert shards.missing(range(5)) == [range(5)]
    write(shards, range(3, 5), range(8, 20), range(10, 12))
    assert shards.missing(range(0, 30)) == [range(3), range(5, 8), range(20, 30)]
    assert shards.missing(range(4, 9)) == [range(5, 8)]
    assert shards.missing(range(9, 20)) == []
    assert shards.missing(range(25, 27)) == [range(25, 27)]
    assert shards.missing(range(0, 2)) == [range(0, 2)]
    assert shards.count(range(30)) == 14


def test_other_files_are_not_shards(shards):
    for name in (".000000-000004.npz.new", "settings.json", "000000-000004.npz.old", "5-9.npz"):
        (shards.directory / name).write_bytes(b"")
    assert shards.found() == []
    assert SampleShards(shards.directory / "nowhere").found() == []


def test_samples_are_read_in_order_without_repetition(shards):
    write(shards, range(4, 9), range(4), range(2, 6), range(9, 12), range(0, 3))
    for indices in (range(12), range(7), range(4), range(1), range(3, 11)):
        read = list(shards.read(indices))
        for name, array in {**arrays(indices), "indices": np.array(indices)}.items():
            assert np.array_equal(np.concatenate([part[name] for part in read]), array)


def test_a_gap_is_an_error(shards):
    write(shards, range(3), range(5, 9))
    with pytest.raises(DataError, match="lacks sample 3: run the same command again"):
        list(shards.read(range(9)))
    with pytest.raises(DataError, match="lacks sample 9"):
        list(shards.read(range(8, 12)))


def test_damage_of_any_byte_is_noticed_or_harmless(shards):
    write(shards, range(3))
    path = shards.path(range(3))
    content = path.read_bytes()
    noticed = 0
    for position in range(0, len(content), 3):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
        )
        try:
            found = shards.load(range(3))
        except DataError:
            noticed += 1
            continue
        for name, array in arrays(range(3)).items():
            assert np.array_equal(found[name], array)
    assert noticed > len(content) / 6


@pytest.mark.parametrize("length", [0, 1, 50, 400, -1])
def test_half_a_shard_is_removed(shards, length):
    write(shards, range(3), range(3, 6))
    path = shards.path(range(3))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"000000-000002.npz is damaged .*run the same command"):
        list(shards.read(range(6)))
    assert shards.remove_damaged(range(3)) == path
    assert shards.remove_damaged(range(3, 6)) is None
    assert shards.found() == [range(3, 6)]
    assert shards.remove_damaged(range(3)) is None  # another process was faster


def test_a_renamed_or_uneven_shard_is_damaged(shards):
    write(shards, range(3))
    shards.path(range(3)).rename(shards.path(range(3, 6)))
    with pytest.raises(DataError, match="other samples than its name says"):
        shards.load(range(3, 6))
    shards.write(range(2), {"samples": np.zeros((3, 2))})
    with pytest.raises(DataError, match="differ in length"):
        shards.load(range(2))


def test_remove(shards):
    write(shards, range(3), range(3, 6))
    (shards.directory / "settings.json").write_text("{}")
    shards.remove()
    assert [path.name for path in shards.directory.iterdir()] == ["settings.json"]
