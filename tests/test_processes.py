"""Processes that share a task know their rank."""

import subprocess
import sys

import pytest

from tarflow import ConfigurationError
from tarflow.machine.processes import Process

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("rank", "world_size", "environment", "expected"),
    [
        (None, None, {}, Process()),
        (1, 2, {}, Process(1, 2, 1)),
        (1, 2, TORCHRUN, Process(1, 2, 1)),
        (None, None, TORCHRUN, Process(5, 8, 1)),
        (None, None, SRUN, Process(3, 4, 1)),
        (None, None, SRUN | TORCHRUN, Process(5, 8, 1)),
        # a batch script of Slurm, without srun, runs once
        (None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, Process()),
    ],
)
def test_who_this_is(rank, world_size, environment, expected):
    assert Process.find(rank, world_size, environment) == expected


@pytest.mark.parametrize(("rank", "world_size"), [(1, None), (None, 2)])
def test_half_an_answer_is_refused(rank, world_size):
    with pytest.raises(ConfigurationError, match="give both, or neither"):
        Process.find(rank, world_size, {})


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_ranks_go_from_zero(rank, world_size):
    with pytest.raises(ConfigurationError, match=f"rank {rank} of world_size {world_size}"):
        Process.find(rank, world_size, {})


def test_every_task_has_one_owner():
    processes = [Process(rank, 3) for rank in range(3)]
    owners = [[process.rank for process in processes if process.owns(i)] for i in range(7)]
    assert owners == [[0], [1], [2], [0], [1], [2], [0]]
    assert [process.leads for process in processes] == [True, False, False]


HOLDER = """
import fcntl, sys

with open(sys.argv[1], "a") as file:  # as `claim` does, without torch, which takes its time
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1)
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_rank_is_claimed_until_its_process_is_gone(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "claimed\n"
        with pytest.raises(ConfigurationError, match="another process of rank 1 works in"):
            Process(1, 2).claim(tmp_path).__enter__()
        with Process(0, 2).claim(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with Process(1, 2).claim(tmp_path):
        pass


def test_where_there_are_no_locks_the_data_sets_can_be_used(tmp_path):
    """As on Windows: what needs no locks imports, and what needs them says so."""
    program = """
import sys
from pathlib import Path

sys.modules["fcntl"] = None
from tarflow.data import digits, prepare, read_batch

assert len(read_batch(digits().test, range(7)).x) == 7
prepare(digits(), Path(sys.argv[1]) / "out")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "TarflowError" in done.stderr
    assert "this system has no locks of files" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"), Process().claim(tmp_path):
        pass
