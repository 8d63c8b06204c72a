"""The trainer that a configuration means: what is obeyed, what is refused, and where it runs."""

import os
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities import rank_zero_only

from tarflow.arguments import shown
from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section
from tarflow.cli.wandb_run import own_id
from tarflow.errors import ConfigurationError
from tarflow.training.precision import check_precision

NORMS = "module.max_grad_norm is the largest norm of all gradients together"
EVALUATION = "`tarflow evaluate` reads test images, all of them"

REFUSED = {
    "accumulate_grad_batches": "it follows from data.device_batch_size, the number of images which"
    " a device takes at once",
    "barebones": "callbacks=null logger=null leave out what takes time",
    "callbacks": "add one to the section callbacks, as +callbacks.NAME._target_=...",
    "fast_dev_run": "trainer=smoke takes two small steps",
    "gradient_clip_algorithm": NORMS,
    "gradient_clip_val": NORMS,
    "inference_mode": EVALUATION,
    "limit_predict_batches": "`tarflow sample` draws num_samples=... samples",
    "limit_test_batches": EVALUATION,
    "logger": "choose by logger=csv, tensorboard or wandb, several by logger=[csv,wandb]",
    "model_registry": "`pretrained` in the run folder is the model to publish",
    "overfit_batches": "give few images by the data section (as data=random data.data.num_train=64"
    " does) and data.batch_size",
    "reload_dataloaders_every_n_epochs": "a data set stays the same as long as a run reads it",
    "sync_batchnorm": "no flow has batch normalization",
    "use_distributed_sampler": "data.batch_size counts the images of all processes, and the data"
    " module shares them out",
}
"""Settings of Lightning's that would do nothing or harm here, and what does what they are for."""

EPOCHS = 10
"""Epochs between two validations, where neither these nor steps are set."""


def make_trainer(
    section: Section, loggers: Section | None, callbacks: Section | None
) -> lightning.Trainer:
    """Make the trainer, for as many processes as a launcher started.

    Raises:
        ConfigurationError: A setting is for something else to do, or a precision too low.
    """
    _check(section)
    made = _made("logger", loggers)
    kept = _made("callbacks", callbacks)
    if not made:  # without loggers this one would refuse to run
        kept = [each for each in kept if not isinstance(each, LearningRateMonitor)]
    bars = section.get("enable_progress_bar", True)
    kept = [each for each in kept if bars or not isinstance(each, ProgressBar)]
    options = {"enable_progress_bar": any(isinstance(each, ProgressBar) for each in kept)}
    # Lightning refuses its own ones unless this is set too.
    own = any(isinstance(each, ModelCheckpoint) for each in kept)
    options["enable_checkpointing"] = own or section.get("enable_checkpointing", False)
    options |= _validation(section) | _environment(section)
    return instantiate(section, logger=made, callbacks=kept, **options)


def _check(section: Mapping[str, Any]) -> None:
    """Refuse what would be taken without effect."""
    for key, instead in REFUSED.items():
        value = section.get(key)
        # 0, False and None ask for nothing, and so does one step to accumulate.
        if value and not (key == "accumulate_grad_batches" and value == 1):
            raise ConfigurationError(
                f"trainer.{key}={shown(value)} is not a setting here: {instead}"
            )
    sharded = "ShardedStrategy" in str(section.get("strategy"))
    check_precision(str(section.get("precision") or "32-true"), sharded)


def _made(name: str, section: Section | None) -> list[Any]:
    """Make what a section lists, without what is switched off by null or false."""
    listed = {key: each for key, each in (section or {}).items() if each}
    if not any("_target_" in each for each in listed.values()):
        return []  # all are off, and an experiment sets something of them
    for key, each in listed.items():
        if "_target_" not in each:
            on = ", ".join(str(key) for key in listed if "_target_" in listed[key])
            raise ConfigurationError(
                f"{name}.{key} has no _target_, so that it sets nothing: there are {on}"
            )
    return [instantiate(each, **own_id(each)) for each in listed.values()]


def _validation(section: Mapping[str, Any]) -> dict[str, int | None]:
    """How often to validate, by what is set.

    Lightning would validate at the end of some epochs even where an interval in steps is set, and
    within those alone.
    """
    interval = section.get("val_check_interval")
    if section.get("check_val_every_n_epoch") is not None:
        return {}
    if interval is None:
        return {"check_val_every_n_epoch": EPOCHS}
    # Numbers such as 0.25 are parts of an epoch; others count steps, or tell a time.
    return {"check_val_every_n_epoch": 1 if isinstance(interval, float) else None}


def _environment(section: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of devices and of nodes, as torchrun or srun tell, and Lightning's part in it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices, total = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        return _devices(section, devices, total // devices)
    plugins = {} if section.get("plugins") else {"plugins": [LightningEnvironment()]}
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1:
        nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
        # Lightning looks at these, which may be missing, or be those of the job around srun.
        os.environ["SLURM_NTASKS_PER_NODE"] = str(tasks // nodes)
        os.environ["SLURM_NNODES"] = str(nodes)
        if plugins:  # a run requeues itself, by callbacks.preemption
            plugins = {"plugins": [SLURMEnvironment(auto_requeue=False)]}
        return plugins | _devices(section, tasks // nodes, nodes)
    if "SLURM_NTASKS" not in os.environ:
        return {}
    # A batch script runs a command once, whatever the job asked for; Lightning expects the rest.
    if os.environ["SLURM_NTASKS"] != "1" and "SLURM_STEP_NUM_TASKS" not in os.environ:
        rank_zero_only(print)(
            f"this job has {os.environ['SLURM_NTASKS']} tasks, and this command was started once,"
            " without srun: it trains alone. To use them all: srun tarflow train trainer=ddp ..."
        )
    return plugins


def _devices(section: Mapping[str, Any], devices: int, nodes: int) -> dict[str, int]:
    """The numbers, unless they are set."""
    unset = section.get("devices", "auto") == "auto"
    return {"devices": devices, "num_nodes": nodes} if unset else {}
