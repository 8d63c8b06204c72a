"""A run folder finds its checkpoint, and never mixes two runs."""

import json
import os
import pickle

import pytest
import torch

from tarflow import CheckpointError
from tarflow.training import Run
from tests.models import tiny_flow

CONFIG = {"model": {"model_dim": 64}, "trainer": {"max_steps": 10}, "resume": "auto"}


def interrupted(run: Run, step: int = 5) -> None:
    run.start(CONFIG, "auto")
    run.checkpoint.parent.mkdir()
    weights = {f"flow.{name}": value for name, value in tiny_flow().state_dict().items()}
    content = {"global_step": step, "state_dict": weights, "optimizer_states": [], "loops": {}}
    torch.save(content, run.checkpoint)


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


def test_what_was_written_by_something_else_is_refused_and_kept(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    torch.save({"model": {}, "global_step": 3}, run.checkpoint)
    with pytest.raises(
        CheckpointError, match=r"no state_dict, optimizer_states, loops, so it was"
    ):
        run.step()
    torch.save(torch.ones(3), run.checkpoint)
    with pytest.raises(CheckpointError, match=r"holds no global_step"):
        run.check(tiny_flow())


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    run = Run(tmp_path)
    interrupted(run)
    run.checkpoint.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        run.step()
    assert not (tmp_path / "made").exists()


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    run.check(tiny_flow())
    with pytest.raises(CheckpointError, match=r"the model has no .*blocks.1"):
        run.check(tiny_flow(num_layers=1))
    with pytest.raises(CheckpointError, match=r"has shape \(4, 16\), but the model needs"):
        run.check(tiny_flow(model_dim=32))


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*choose another run_dir"):
        Run(tmp_path / "run").start(CONFIG, "auto")


def test_a_lost_or_damaged_configuration_is_told_of(tmp_path):
    run = Run(tmp_path)
    interrupted(run)
    for content in ("{", None):
        if content:
            run.config.write_text(content)
        else:
            run.config.unlink()
        with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
            run.start(CONFIG, "auto")
