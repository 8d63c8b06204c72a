"""Sweeps: every job runs, whatever becomes of the others."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tarflow.cli.sweep import JobError, WatchedLauncher, job_told_plainly
from tarflow.errors import NonFiniteError

from .test_cli import TINY, error_of


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_job_of_a_sweep_runs(capsys):
    rates = "optimizer.lr=-1.0,1e30,text,1e-3"
    options = ["module.max_skipped_steps=0", "trainer.max_steps=3", "name=at_${optimizer.lr}"]
    message = error_of("train", "--multirun", rates, *options, *TINY)
    lines = message.splitlines()
    assert lines[0] == "tarflow: 3 of 4 jobs failed"
    assert "job 0 (optimizer.lr=-1.0): " in lines[1]
    assert "Invalid learning rate: -1.0" in lines[1]
    assert "job 1 (optimizer.lr=1e+30): " in lines[2]
    assert "not finite" in lines[2]
    assert lines[3].startswith("  job 2 (optimizer.lr=text): lr='text': needed is ")
    assert Path("outputs/at_0.001/seed_0/pretrained/config.json").exists()
    failed = json.loads(Path("outputs/multirun/failed.json").read_text())
    assert [job["job"] for job in failed] == [0, 1, 2]
    assert failed[0]["overrides"] == "optimizer.lr=-1.0"
    assert capsys.readouterr().err.count("The sweep goes on") == 3


def test_a_mistake_of_ours_is_told_whole_and_the_sweep_goes_on(capsys):
    with pytest.raises(JobError, match="KeyError: 'no such key'"), job_told_plainly():
        raise KeyError("no such key")
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(JobError, match=r"^too large$"), job_told_plainly():
        raise NonFiniteError("too large", transform=1)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)])
def test_a_signal_ends_a_sweep(end):
    with pytest.raises(type(end)), job_told_plainly():
        raise end


def test_a_sweeper_gets_the_loss_of_every_job(monkeypatch):
    returned = []
    launch = WatchedLauncher.launch

    def launch_and_keep(self: WatchedLauncher, *what: Any, **more: Any) -> Any:
        returned.extend(launch(self, *what, **more))
        return returned

    monkeypatch.setattr(WatchedLauncher, "launch", launch_and_keep)
    options = ["trainer.max_steps=2", "name=at_${optimizer.lr}", "optimizer.lr=-1.0,1e-3"]
    error_of("train", "-m", *options, *TINY)
    error_of("train", "-m", *options, *TINY)  # where one job is trained already
    failed, trained, failed_again, known = (job.return_value for job in returned)
    assert math.isnan(failed)
    assert math.isnan(failed_again)
    assert 0 < trained < 10
    assert known == trained
