"""Several commands in one process: each leaves what it found."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tarflow.cli import run_command

from .test_cli import TINY

TRAIN = ["trainer.max_steps=2", *TINY]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def state() -> dict[str, Any]:
    """What a notebook would miss if it changed."""
    loggers = [logging.getLogger(name) for name in (None, "tarflow", "lightning.pytorch", "mine")]
    return {
        "arguments": list(sys.argv),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "warnings": list(warnings.filters),
        "loggers": [(each.level, list(each.handlers), each.disabled) for each in loggers],
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "resolvers": {name: OmegaConf.has_resolver(name) for name in ("now", "hydra", "mine")},
        "threads": {t for t in threading.enumerate() if not t.daemon},
        "streams": (sys.stdout, sys.stderr),
    }


def ends(*arguments: str) -> Callable[[], None]:
    """A command that ends in an error."""

    def command() -> None:
        with pytest.raises(SystemExit):
            run_command("train", [*TRAIN, *arguments])

    return command


COMMANDS = {
    "a run": lambda: run_command("train", [*TRAIN, "run_dir=a"]),
    "a sweep": ends("run_dir=b", "optimizer.lr=-1.0,1e-3", "-m"),
    "a wrong value": ends("run_dir=c", "optimizer.lr=-1.0"),
    "an unknown key": ends("run_dir=d", "optimizer.lrr=1"),
    "an unknown option": ends("run_dir=e", "--lr=1"),
    "its help": ends("--help"),
}


def test_commands_leave_what_they_find(monkeypatch):
    logger = logging.getLogger("mine")
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    OmegaConf.register_new_resolver("mine", lambda: 3, replace=True)
    GlobalHydra.instance().clear()
    with hydra.initialize(version_base="1.3"):  # a notebook that uses Hydra too
        run_command("train", [*TRAIN, "run_dir=first"])  # imports what a command needs
        before = state()
        for name, command in COMMANDS.items():
            command()
            assert state() == before, name
    OmegaConf.clear_resolver("mine")


def test_a_second_run_is_as_the_first():
    for name in ("a", "b"):
        run_command("train", [*TRAIN, f"run_dir={name}"])
    first, second = (Path(f"{name}/pretrained/model.safetensors").read_bytes() for name in "ab")
    assert first == second
