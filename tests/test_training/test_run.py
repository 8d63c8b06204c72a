"""A run folder finds its checkpoint, and never mixes two runs."""

import json

import pytest
import torch

from tarflow import CheckpointError
from tarflow.training import Run

CONFIG = {"model": {"model_dim": 64}, "trainer": {"max_steps": 10}, "resume": "auto"}


def interrupted(run: Run, step: int = 5) -> None:
    run.start(CONFIG, "auto")
    run.checkpoint.parent.mkdir()
    torch.save({"global_step": step}, run.checkpoint)


def test_a_fresh_folder_starts_from_nothing_and_keeps_the_configuration(tmp_path):
    run = Run(tmp_path / "run")
    assert run.start(CONFIG, "auto") is None
    assert run.step() == 0
    assert json.loads(run.config.read_text()) == CONFIG


def test_a_folder_with_a_checkpoint_is_resumed(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    assert run.start(CONFIG, "auto") == run.checkpoint
    assert run.step() == 5


def test_trainer_settings_may_change_on_resuming(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    longer = CONFIG | {"trainer": {"max_steps": 99}}
    assert run.start(longer, "auto") == run.checkpoint


def test_another_model_is_refused_and_the_configuration_kept(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    with pytest.raises(CheckpointError, match=r"model.model_dim: 64 -> 128.*another run_dir"):
        run.start(CONFIG | {"model": {"model_dim": 128}}, "auto")
    assert json.loads(run.config.read_text()) == CONFIG


def test_resume_never_refuses_a_folder_with_a_checkpoint(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    with pytest.raises(CheckpointError, match="resume=auto, or choose another run_dir"):
        run.start(CONFIG, "never")


def test_an_unknown_resume_choice_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="resume=maybe is unknown: allowed are"):
        Run(tmp_path).start(CONFIG, "maybe")


def test_a_damaged_checkpoint_is_reported_and_kept(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    content = run.checkpoint.read_bytes()[:100]
    run.checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last.ckpt cannot be read .* move it away"):
        run.step()
    assert run.checkpoint.read_bytes() == content
