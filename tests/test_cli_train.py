"""`tarflow train`: what is off, how a run ends, and where it runs."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.test_cli import TINY, error_of, tarflow

RUN = ["train", "experiment=digits_likelihood", "run_dir=run", *TINY]
MODEL = "the trained model is in run/pretrained"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_null_and_false_switch_off(capsys):
    off = ["callbacks.sample_grid=null", "callbacks.progress=false", "logger.csv=null"]
    tarflow(*RUN, "trainer.max_steps=2", *off)
    said = capsys.readouterr()
    assert MODEL in said.out
    assert "%" not in said.err  # no bar of Lightning's in place of ours
    assert {path.name for path in Path("run").iterdir()} == {
        "config.json",
        "checkpoints",
        "pretrained",
    }


@pytest.mark.parametrize("off", ["null", "false"])
def test_groups_are_switched_off(capsys, off):
    tarflow(*RUN[:-1], f"callbacks={off}", f"logger={off}", "trainer.max_steps=2")
    said = capsys.readouterr()
    assert "no model was written" in said.out
    assert "trained model" not in said.out
    assert [path.name for path in Path("run").iterdir()] == ["config.json"]


def test_what_is_needed_cannot_be_switched_off():
    assert "optimizer is needed: give optimizer=..., one of adamw, muon" in error_of(
        "train", "optimizer=null"
    )


def test_a_setting_of_what_is_off_is_refused():
    message = error_of(*RUN, "+callbacks.sample_gird.every_n_steps=5")
    assert "callbacks.sample_gird has no _target_" in message
    assert "sample_grid" in message


def written_step() -> int:
    return torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"]


def test_the_last_epoch_leaves_state_and_model(capsys):
    short = [*RUN, "trainer.max_epochs=1", "+trainer.limit_train_batches=3"]
    for _ in range(2):
        tarflow(*short)
        said = capsys.readouterr().out
        assert "the run ended at step 3 of 900: the same command goes on from there" in said
        assert MODEL in said
        assert written_step() == 3


def interrupt() -> None:
    """Press ctrl-C once the run has written its state."""
    while not Path("run/checkpoints/last.ckpt").exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_leaves_state_and_model(capsys):
    threading.Thread(target=interrupt, daemon=True).start()
    message = error_of(*RUN, "callbacks.checkpoint.every_n_steps=5", "callbacks.throughput=null")
    assert message == str(128 + signal.SIGINT)
    step = written_step()
    said = capsys.readouterr().out
    assert f"SIGINT stopped the run at step {step}: the same command goes on from there" in said
    assert 5 <= step < 900
    assert Path("run/pretrained/model.safetensors").exists()
