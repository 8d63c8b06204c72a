"""`tarflow train`: fits a flow."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from tarflow.arguments import check_integer
from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section, Settings
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.training import Preemption, Run
from tarflow.training.precision import check_precision
from tarflow.training.steps import callbacks_of

tell = rank_zero_only(print)
"""Several processes speak with one voice."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """The settings of `tarflow train`."""

    name: str | int = "tarflow"  # the folder under outputs/
    seed: int = 0
    # The same at every start, so that a run finds its checkpoint.
    run_dir: str = "outputs/${name}/seed_${seed}"
    resume: str = "auto"  # auto: go on from the folder's checkpoint; never: refuse one that has it
    data: Section
    model: Section
    codec: Section  # noise=uniform, noise=gaussian: which codec goes with which noise
    noise: Section
    objective: Section
    module: Section
    attention: Section
    optimizer: Section
    schedule: Section
    trainer: Section
    callbacks: Section
    logger: Section | None = None


def train(config: TrainSettings) -> None:
    """Fit a flow and leave a run folder."""
    leads = rank_zero_only.rank == 0
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("tarflow").setLevel(logging.INFO if leads else logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6 on torch 2.15
    for harmless in (".*does not have many workers", ".*smaller than the logging interval"):
        warnings.filterwarnings("ignore", harmless)
    check_integer("trainer.max_steps", config.trainer.max_steps, least=1)
    if check_integer("seed", config.seed, least=0) >= 2**32:
        raise ConfigurationError(f"seed {config.seed} must be below 2**32")
    run = Run(Path(config.run_dir))
    checkpoint = run.start(config.composed, config.resume, leads)
    done = run.step()
    if done >= config.trainer.max_steps:
        tell(f"{run.directory} is trained already: {done} steps. Its model: {run.pretrained}")
        return
    lightning.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    flow = make_flow(config.model, config.codec, config.noise, datamodule.data)
    run.check(flow)
    module = instantiate(config.module, flow=flow)
    trainer = _make_trainer(config)
    num_parameters = sum(parameter.numel() for parameter in flow.parameters())
    num_images = len(datamodule.data.train)
    tell(f"{config.name}: {num_parameters:,} parameters, {num_images:,} training images")
    if checkpoint:
        tell(f"going on from {checkpoint} at step {done}")
    trainer.fit(module, datamodule, ckpt_path=checkpoint)
    _leave_if_told(trainer)
    tell(f"the trained model is in {run.pretrained}")


def _leave_if_told(trainer: lightning.Trainer) -> None:
    """End the program where a signal ended the run, so that nobody takes it for a finished one."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, Preemption) and callback.received:
            step = f"{callback.received.name} stopped the run at step {trainer.global_step}"
            tell(f"{step}: the same command goes on from there")
            sys.exit(128 + callback.received)


def _make_trainer(config: TrainSettings) -> lightning.Trainer:
    """Make the trainer, for as many processes as a launcher started."""
    numbers = _launched() if config.trainer.devices == "auto" else {}
    sharded = "ShardedStrategy" in str(config.trainer.get("strategy"))
    check_precision(str(config.trainer.get("precision") or "32-true"), sharded)
    loggers = [instantiate(logger) for logger in (config.logger or {}).values()]
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    return instantiate(config.trainer, logger=loggers, callbacks=callbacks, **numbers)


def _launched() -> dict[str, int]:
    """Numbers of devices of each node and of nodes, as torchrun or srun tell; else nothing."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices, total = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        return {"devices": devices, "num_nodes": total // devices}
    # Without srun, a batch script runs a command once, whatever the job asked for.
    if (tasks := int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))) > 1:
        nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
        return {"devices": tasks // nodes, "num_nodes": nodes}
    return {}


def make_flow(model: Section, codec: Section, noise: Section, data: ImageData) -> Flow:
    """Make the flow; what the data determines need not be configured."""
    determined = data.determined
    if model.get("num_classes", data.num_classes) != data.num_classes:
        del determined["class_names"]  # a model of other classes, or of none
    parts = {"codec": _filled(codec, determined), "noise": _filled(noise, determined)}
    return _filled(model, determined | parts)


def _filled(section: Section, determined: Mapping[str, Any]) -> Any:
    """Make what a section describes, with what is determined of that which it leaves open."""
    # Hydra would turn a dataclass that is passed to it into a dictionary.
    make = instantiate(section, _partial_=True)
    missing = determined.keys() & inspect.signature(make).parameters.keys() - section.keys()
    return make(**{name: determined[name] for name in missing})
