"""Runs of Weights & Biases: one for each run folder, over all its starts."""

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from tarflow.machine.files import write_atomically

NAMED = ("id", "version", "experiment")
"""Arguments of Lightning's logger that say which run it is."""


def own_id(section: Mapping[str, Any]) -> dict[str, str]:
    """The id that a logger is made with: that of its folder, made at the first start there.

    Nothing for other loggers, and where somebody says which run it is: the settings, the
    environment (as a sweep's agent does), or a run that is open in this process.
    """
    is_wandb = str(section["_target_"]).rpartition(".")[2] == WandbLogger.__name__
    told = any(section.get(name) for name in NAMED) or "WANDB_RUN_ID" in os.environ
    if not is_wandb or told or _is_open():
        return {}
    path = Path(section.get("save_dir") or ".") / "wandb_id"
    if not path.is_file():
        if rank_zero_only.rank:
            return {}  # logs nothing
        write_atomically(path, f"{uuid.uuid4().hex[:12]}\n")
    return {"id": path.read_text().strip()}


@contextlib.contextmanager
def wandb_runs(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> Iterator[None]:
    """Tell runs their settings, and end them: the next training of this process is another run.

    A run that was open before is somebody else's, who ends it.
    """
    was_open, succeeded = _is_open(), False
    own = [logger for logger in loggers if isinstance(logger, WandbLogger)]
    for logger in own:
        logger.log_hyperparams(dict(settings))
    try:
        yield
        succeeded = True
    finally:
        for logger in own:
            if not was_open:
                logger.experiment.finish(exit_code=0 if succeeded else 1)


def _is_open() -> bool:
    """Whether there is a run in this process already."""
    return getattr(sys.modules.get("wandb"), "run", None) is not None
