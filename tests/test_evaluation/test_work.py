"""Values of many images: kept, shared and gone on with."""

import threading

import numpy as np
import pytest

from tarflow import ConfigurationError, DataError
from tarflow.evaluation import InMemory, Kept
from tarflow.machine.processes import Process

COUNT = 23


def square(indices):
    return {"square": np.array(indices) ** 2, "index": np.array(indices)}


class Killed(Exception):
    pass


class Recorder:
    """Computes squares, remembers of what, and fails after some batches."""

    def __init__(self, batches=1000):
        self.seen, self.batches = [], batches

    def __call__(self, indices):
        if not self.batches:
            raise Killed
        self.batches -= 1
        self.seen += indices
        return square(indices)


def assert_squares(rows):
    assert rows.keys() == {"square", "index"}
    assert rows["index"].tolist() == list(range(COUNT))
    assert rows["square"].tolist() == [index**2 for index in range(COUNT)]


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_in_memory_and_kept_give_the_same(tmp_path, batch_size):
    assert_squares(InMemory().do("squares", COUNT, batch_size, square))
    assert_squares(Kept(tmp_path, {"a": 1}).do("squares", COUNT, batch_size, square))


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_killed_work_goes_on_without_repeating(tmp_path, batches):
    first, second = Recorder(batches), Recorder()
    with pytest.raises(Killed):
        Kept(tmp_path, {"a": 1}).do("squares", COUNT, 5, first)
    assert_squares(Kept(tmp_path, {"a": 1}).do("squares", COUNT, 4, second))  # other batches
    assert sorted(first.seen + second.seen) == list(range(COUNT))


def test_values_of_other_settings_are_not_used(tmp_path):
    Kept(tmp_path, {"a": 1}).do("squares", COUNT, 5, square)
    recorder = Recorder()
    assert_squares(Kept(tmp_path, {"a": 2}).do("squares", COUNT, 5, recorder))
    assert recorder.seen == list(range(COUNT))


def test_a_damaged_file_is_computed_again(tmp_path):
    work = Kept(tmp_path, {"a": (1, 2)})
    work.do("squares", COUNT, 5, square)
    path = next(tmp_path.rglob("000005-000009.npz"))
    path.write_bytes(path.read_bytes()[:-40])
    recorder = Recorder()
    assert_squares(work.do("squares", COUNT, 5, recorder))
    assert recorder.seen == [5, 6, 7, 8, 9]


def test_processes_share_without_counting_twice(tmp_path):
    recorders = [Recorder() for _ in range(3)]
    results = {}

    def run(rank):
        work = Kept(tmp_path, {"a": 1}, Process(rank, 3))
        results[rank] = work.do("squares", COUNT, 2, recorders[rank])

    for rank in (2, 1):
        run(rank)
    run(0)
    assert results[1] is None
    assert results[2] is None
    assert_squares(results[0])
    assert sorted(index for each in recorders for index in each.seen) == list(range(COUNT))
    assert all(each.seen for each in recorders)


def test_the_leader_waits_for_the_others(tmp_path):
    results = []
    leader = threading.Thread(
        target=lambda: results.append(
            Kept(tmp_path, {}, Process(0, 2)).do("squares", COUNT, 4, square)
        )
    )
    leader.start()
    leader.join(timeout=1)
    assert leader.is_alive()
    # POSIX locks belong to processes, so that ranks of one process may hold theirs beside it
    Kept(tmp_path, {}, Process(1, 2)).do("squares", COUNT, 4, square)
    leader.join(timeout=30)
    assert_squares(results[0])


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "values").write_text("a file")
    recorder = Recorder()
    with pytest.raises(DataError, match="values"):
        Kept(tmp_path / "values", {}).do("squares", COUNT, 5, recorder)
    assert not recorder.seen


def test_nothing_to_compute():
    with pytest.raises(ConfigurationError, match="at least 1"):
        InMemory().do("squares", 0, 5, square)
