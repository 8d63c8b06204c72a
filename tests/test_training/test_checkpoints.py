"""What is on disk survives failures, and a run that is told to stop ends in good order."""

import os
import resource
from contextlib import contextmanager

import pytest
import torch

from tarflow import CheckpointError
from tarflow.training import LastCheckpoint
from tarflow.training.preemption import requeue
from tests.slurm import fake_scontrol
from tests.test_training.test_module import data, fit, tiny_flow, tiny_module

__all__ = ["data"]


@contextmanager
def largest_file(num_bytes: int):
    """Let no file grow larger, as a disk that is full does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_leaves_the_last_state_and_says_so(data, tmp_path):
    path = tmp_path / "last.ckpt"
    fit(tiny_module(tiny_flow()), data, 2, callbacks=[LastCheckpoint(path, 1)])
    before = path.read_bytes()
    message = r"state of step 3 cannot be written .*That of step 2 is kept there: make room"
    with largest_file(len(before) // 2), pytest.raises(CheckpointError, match=message):
        fit(tiny_module(tiny_flow()), data, 4, ckpt_path=path, callbacks=[LastCheckpoint(path, 1)])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]
    fit(tiny_module(tiny_flow()), data, 4, ckpt_path=path, callbacks=[LastCheckpoint(path, 1)])
    assert torch.load(path, weights_only=True)["global_step"] == 4


def test_a_job_that_was_cancelled_is_not_requeued(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{fake_scontrol(tmp_path, 'CANCELLED')}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    requeue()
    assert (tmp_path / "asked").read_text().splitlines() == ["show job 17_4"]


def test_a_job_that_cannot_be_requeued_is_told_of(tmp_path, monkeypatch):
    folder = fake_scontrol(tmp_path, "RUNNING")
    (folder / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(CheckpointError, match="state of training is written, but `scontrol show"):
        requeue()
