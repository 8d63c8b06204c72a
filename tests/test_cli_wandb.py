"""Runs of Weights & Biases, offline: which run a training is, what it is told, and its end."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tarflow.cli.wandb_run import own_id

from .test_cli import TINY, tarflow
from .wandb_file import configuration, history

LOSS = "train/nats_per_dim"
LOGGER = {"_target_": "lightning.pytorch.loggers.WandbLogger"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, outside of any run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)


def test_a_folder_keeps_its_id(monkeypatch):
    [found] = own_id({**LOGGER, "save_dir": "."}).values()
    assert re.fullmatch("[0-9a-f]{12}", found)
    assert own_id({**LOGGER, "save_dir": "."}) == {"id": found}
    Path("other").mkdir()
    assert own_id({**LOGGER, "save_dir": "other"})["id"] != found


@pytest.mark.parametrize("told", [{"id": "mine"}, {"version": "mine"}])
def test_who_names_the_run_is_obeyed(told):
    assert own_id({**LOGGER, **told}) == {}
    assert not Path("wandb_id").exists()


def test_a_sweeps_agent_names_the_run(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-sweep")
    assert own_id(LOGGER) == {}


def test_an_open_run_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=object()))
    assert own_id(LOGGER) == {}


def test_other_loggers_have_no_id():
    assert own_id({"_target_": "lightning.pytorch.loggers.CSVLogger"}) == {}


def test_each_job_of_a_sweep_is_a_run_which_a_second_start_goes_on_with():
    options = ["logger=wandb", "logger.wandb.offline=true", "name='job_${seed}'", *TINY]
    options += ["run_dir='${name}'", "logger.wandb.project=mine", "schedule.total_steps=9"]
    options += ["trainer.log_every_n_steps=1"]
    tarflow("train", "--multirun", "seed=0,1", "trainer.max_steps=2", *options)
    tarflow("train", "seed=1", "trainer.max_steps=3", *options)
    ids = [Path(f"job_{seed}/wandb_id").read_text().strip() for seed in (0, 1)]
    assert ids[0] != ids[1]
    for seed, starts in ((0, 1), (1, 2)):
        folders = sorted(Path(f"job_{seed}/wandb").glob("offline-run-*"))
        # "offline-run-TIME-ID", and "-1" after it where one second saw two starts.
        assert [folder.name.split("-")[3] for folder in folders] == [ids[seed]] * starts
        [file] = folders[-1].glob("*.wandb")
        told = configuration(file)
        assert told["seed"] == seed
        assert told["optimizer"]["lr"] > 0
        steps = [row["trainer/global_step"] for row in history(file) if LOSS in row]
        assert steps == [[0, 1], [2]][starts - 1]
    assert torch.load("job_1/checkpoints/last.ckpt")["global_step"] == 3
