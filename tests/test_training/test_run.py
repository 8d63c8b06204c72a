"""A run folder finds its checkpoint, and never mixes two runs."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tarflow import CheckpointError
from tarflow.cli.targets import completed
from tarflow.data import arrays
from tarflow.training import Run
from tests.composing import composed
from tests.models import tiny_flow

CONFIG = {"model": {"model_dim": 64}, "trainer": {"max_steps": 10}, "resume": "auto"}


def module(**options) -> nn.Module:
    """What a run of a tiny flow trains."""
    return nn.ModuleDict({"flow": tiny_flow(**options)})


def interrupted(run: Run, step: int = 5) -> None:
    run.start(CONFIG, "auto")
    run.checkpoint.parent.mkdir()
    state = module().state_dict()
    content = {"global_step": step, "state_dict": state, "optimizer_states": [], "loops": {}}
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
        run.check(module())


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
    run.check(module())
    with pytest.raises(CheckpointError, match=r"the model has no .*blocks.1"):
        run.check(module(num_layers=1))
    with pytest.raises(CheckpointError, match=r"has shape \(4, 16\), but the model needs"):
        run.check(module(model_dim=32))


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


def settings(*overrides: str) -> dict:
    """What a run of the digits writes to its folder."""
    return OmegaConf.to_container(composed("train", *overrides), resolve=True)


@pytest.fixture
def started(tmp_path) -> Run:
    run = Run(tmp_path)
    interrupted(run)
    run.config.write_text(json.dumps(settings()))
    return run


def test_what_does_not_change_the_mathematics_may_change(started):
    other = settings(
        *("+data.num_workers=3", "data.eval_batch_size=7", "data.device_batch_size=64"),
        *("attention=products", "module.compile=true", "module.checkpointed_layers=1"),
        *("logger=tensorboard", "trainer=ddp", "trainer.devices=2", "name=renamed"),
        *("callbacks.checkpoint.every_n_steps=5", "module.max_skipped_steps=3"),
    )
    other["data"]["data"] = {"_target_": "tarflow.data.arrays", "root": "elsewhere"}
    assert started.start(other, "auto", completed=completed) == started.checkpoint


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", r"\(seed: 0 -> 1\)"),
        ("optimizer.lr=0.5", r"\(optimizer.lr: 0.001 -> 0.5\)"),
        ("~optimizer.lr", r"\(optimizer.lr: 0.001 -> 0.0001\)"),
        ("data.batch_size=64", r"\(data.batch_size: 128 -> 64\)"),
        ("+data.drop_last=false", r"\(data.drop_last: True -> False\)"),
        ("+data.data.horizontal_flip=true", r"\(data.data.horizontal_flip: None -> True\)"),
        ("module.max_grad_norm=2", r"\(module.max_grad_norm: 1.0 -> 2\)"),
        ("module.products=tf32", r"\(module.products: exact -> tf32\)"),
        ("objective.class_dropout=0.5", r"\(objective.class_dropout: 0.1 -> 0.5\)"),
        ("trainer.max_steps=99999", r"schedule.total_steps: 10000 -> 99999"),
        ("noise=gaussian", r"codec._target_: .*UniformDequantization -> .*Pixels.*noise.std"),
    ],
)
def test_what_changes_the_mathematics_must_match(started, override, message):
    with pytest.raises(CheckpointError, match=message):
        started.start(settings(override), "auto", completed=completed)


def test_what_a_later_release_adds_or_renames_takes_its_default(started):
    before = settings()
    del before["module"]["max_grad_norm"], before["model"]["dropout"], before["model"]["scale"]
    del before["optimizer"]["betas"], before["attention"], before["module"]["checkpointed_layers"]
    before["model"]["_target_"] = "tarflow.flows.tar_flow.TarFlow"
    started.config.write_text(json.dumps(before))
    assert started.start(settings(), "auto", completed=completed) == started.checkpoint
    with pytest.raises(CheckpointError, match=r"model.dropout: 0.0 -> 0.5"):
        started.start(settings("model.dropout=0.5"), "auto", completed=completed)


def pictures(path, num=300, changed=None, labels=None):
    """A file of images, with one of them changed, or other labels."""
    generator = np.random.default_rng(0)
    held = {}
    for part in ("train", "test"):
        held[f"{part}_images"] = generator.integers(256, size=(num, 4, 4, 1), dtype=np.uint8)
        held[f"{part}_labels"] = np.arange(num) % 3 if labels is None else labels
    if changed is not None:
        held["train_images"][changed] = 255 - held["train_images"][changed]
    np.savez(path, **held)
    return arrays(path, channels_last=True)


def test_data_are_the_same_by_content_wherever_they_lie(started, tmp_path):
    state = torch.get_rng_state()
    started.check_data(pictures(tmp_path / "here.npz"))
    assert started.data.exists()
    started.check_data(pictures(tmp_path / "there.npz"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num": 301}, "train has 301 examples, and had 300"),
        ({"changed": 0}, "train has other examples, of those looked at 0"),
        ({"changed": slice(None)}, "of those looked at 0, 1, 2, 3, 4 and 251 more"),
        ({"labels": np.arange(300) % 2}, "train has other"),
    ],
)
def test_data_that_changed_are_told_of_by_name(started, tmp_path, change, message):
    started.check_data(pictures(tmp_path / "here.npz"))
    with pytest.raises(CheckpointError, match=rf"{message}.*remove .*data.json"):
        started.check_data(pictures(tmp_path / "there.npz", **change))
    started.data.unlink()  # as the message says
    started.check_data(pictures(tmp_path / "there.npz", **change))
    started.check_data(pictures(tmp_path / "there.npz", **change))


def test_a_damaged_fingerprint_is_told_of(started, tmp_path):
    started.data.write_text('{"parts": 3}')
    with pytest.raises(CheckpointError, match=r"data.json cannot be read.*remove"):
        started.check_data(pictures(tmp_path / "here.npz"))


def test_the_loss_of_a_finished_run_is_kept(tmp_path):
    run = Run(tmp_path)
    assert run.noted_loss(3) is None
    run.note_loss(3, 0.5)
    assert run.noted_loss(3) == 0.5
    assert run.noted_loss(4) is None
    for text in ("{", "[]", '{"step": 3}', '{"step": 3, "loss": null}'):
        run.loss.write_text(text)
        with pytest.raises(CheckpointError, match=r"loss.json cannot be read .*: remove it"):
            run.noted_loss(3)
