"""`tarflow train`: what is off, how a run ends, and where it runs."""

import inspect
import os
import signal
import threading
import time
from pathlib import Path

import lightning
import pytest
import torch

from tarflow.cli.trainer import REFUSED as REFUSED_BY_NAME
from tarflow.cli.trainer import make_trainer
from tarflow.errors import ConfigurationError
from tests.composing import composed
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
        "data.json",
        "loss.json",
        "checkpoints",
        "pretrained",
    }


@pytest.mark.parametrize("off", ["null", "false"])
def test_groups_are_switched_off(capsys, off):
    tarflow(*RUN[:-1], f"callbacks={off}", f"logger={off}", "trainer.max_steps=2")
    said = capsys.readouterr()
    assert "no model was written" in said.out
    assert "trained model" not in said.out
    assert {path.name for path in Path("run").iterdir()} == {"config.json", "data.json"}


def test_what_is_needed_cannot_be_switched_off():
    assert "optimizer is needed: give optimizer=..., one of adamw, muon" in error_of(
        "train", "optimizer=null"
    )


REFUSED = {
    "gradient_clip_val=1e-9": "module.max_grad_norm",
    "gradient_clip_algorithm=value": "module.max_grad_norm",
    "accumulate_grad_batches=4": "data.device_batch_size",
    "overfit_batches=1": "data.batch_size",
    "fast_dev_run=true": "trainer=smoke",
    "limit_test_batches=3": "tarflow evaluate",
    "limit_predict_batches=0.5": "tarflow sample",
    "logger=true": "logger=csv",
    "inference_mode=true": "tarflow evaluate",
    "sync_batchnorm=true": "batch normalization",
    "barebones=true": "callbacks=null",
    "reload_dataloaders_every_n_epochs=1": "data set",
    "model_registry=mine": "pretrained",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_settings_without_effect_are_refused_by_the_name_of_what_has_it(setting):
    section = composed("train", f"+trainer.{setting}").trainer
    name, _, _ = setting.partition("=")
    message = rf"trainer.{name}=.* here: .*{REFUSED[setting]}"
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(section, None, None)


def test_every_setting_of_the_trainer_is_obeyed_or_refused():
    """A new one of Lightning's has to be looked at."""
    known = inspect.signature(lightning.Trainer).parameters.keys()
    assert known - REFUSED_BY_NAME.keys() == OBEYED
    with pytest.raises(ConfigurationError, match="use_distributed_sampler=True is not a setting"):
        make_trainer(composed("train", "trainer.use_distributed_sampler=true").trainer, None, None)


OBEYED = {
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "plugins", "profiler"),
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time"),
    *("limit_train_batches", "limit_val_batches", "num_sanity_val_steps"),
    *("val_check_interval", "check_val_every_n_epoch", "log_every_n_steps", "default_root_dir"),
    *("enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
    *("deterministic", "benchmark", "detect_anomaly", "enable_autolog_hparams"),
}


@pytest.mark.parametrize(
    ("settings", "every", "interval"),
    [
        ([], 10, 1.0),
        (["+trainer.val_check_interval=20"], None, 20),
        (["+trainer.val_check_interval=0.25"], 1, 0.25),
        (["trainer.check_val_every_n_epoch=3"], 3, 1.0),
        (["trainer.check_val_every_n_epoch=1", "+trainer.val_check_interval=20"], 1, 20),
    ],
)
def test_validation_is_as_often_as_was_said(settings, every, interval):
    trainer = make_trainer(composed("train", *settings).trainer, None, None)
    assert (trainer.check_val_every_n_epoch, trainer.val_check_interval) == (every, interval)


def test_bars_and_checkpoints_of_lightning_are_obeyed():
    best = "+callbacks.best._target_=lightning.pytorch.callbacks.ModelCheckpoint"
    config = composed("train", best, "+trainer.enable_progress_bar=false", "run_dir=run")
    trainer = make_trainer(config.trainer, None, config.callbacks)
    kinds = {type(callback).__name__ for callback in trainer.callbacks}
    assert "ModelCheckpoint" in kinds
    assert not [kind for kind in kinds if "ProgressBar" in kind]


def test_srun_tells_of_processes_however_it_was_called(monkeypatch):
    told = {"NTASKS": "2", "STEP_NUM_TASKS": "2", "STEP_NUM_NODES": "1", "PROCID": "0"}
    job = {"JOB_NAME": "train", "NNODES": "4", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**told, **job}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    section = composed("train", "trainer=ddp", "trainer.accelerator=cpu").trainer
    trainer = make_trainer(section, None, None)
    assert (trainer.world_size, trainer.num_nodes) == (2, 1)


def test_a_batch_script_without_srun_trains_alone_and_says_how_not_to(monkeypatch, capsys):
    for name, value in {"NTASKS": "4", "JOB_NAME": "train", "NNODES": "2", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    tarflow(*RUN, "trainer.max_steps=2", "callbacks.throughput=null", "callbacks.sample_grid=null")
    said = capsys.readouterr().out
    assert "this job has 4 tasks, and this command was started once, without srun" in said
    assert MODEL in said


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
