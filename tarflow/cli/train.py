"""`tarflow train`: fits a flow."""

import inspect
import logging
import math
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
from tarflow.cli.targets import completed
from tarflow.cli.trainer import make_trainer
from tarflow.cli.wandb_run import wandb_runs
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.training import LastCheckpoint, Preemption, PretrainedExport, Run
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
    callbacks: Section | None = None
    logger: Section | None = None


def train(config: TrainSettings) -> float | None:
    """Fit a flow and leave a run folder; returns what a sweeper may make small.

    That is the loss of the last validation, or, without one, of the last training step.
    """
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
    checkpoint = run.start(config.composed, config.resume, leads, completed)
    done = run.step()
    if done >= config.trainer.max_steps:
        model = f"Its model: {run.pretrained}" if run.has_model else "No model was written"
        tell(f"{run.directory} is trained already: {done} steps. {model}")
        return run.noted_loss(done)
    lightning.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    flow = make_flow(config.model, config.codec, config.noise, datamodule.data)
    run.check(flow)
    run.check_data(datamodule.data, leads)
    module = instantiate(config.module, flow=flow)
    trainer = make_trainer(config.trainer, config.logger, config.callbacks)
    num_parameters = sum(parameter.numel() for parameter in flow.parameters())
    num_images = len(datamodule.data.train)
    tell(f"{config.name}: {num_parameters:,} parameters, {num_images:,} training images")
    if checkpoint:
        tell(f"going on from {checkpoint} at step {done}")
    with wandb_runs(trainer.loggers, config.composed):
        trainer.fit(module, datamodule, ckpt_path=checkpoint)
        _tell_end(run, trainer, done)
    losses = [f"{part}/{module.objective.name}" for part in ("val", "train")]
    found = [trainer.callback_metrics[name] for name in losses if name in trainer.callback_metrics]
    if not found:
        return None
    loss = found[0].item()
    if rank_zero_only.rank == 0 and math.isfinite(loss):
        run.note_loss(trainer.global_step, loss)
    return loss


def _tell_end(run: Run, trainer: lightning.Trainer, before: int) -> None:
    """Tell what is kept; end the program if a signal did, so that the run is not taken as done."""
    step, written = trainer.global_step, before
    for callback in callbacks_of(trainer):
        if isinstance(callback, LastCheckpoint) and callback.path == run.checkpoint:
            written = callback.step
    goes_on = f"the same command goes on from {'there' if written == step else f'step {written}'}"
    for callback in callbacks_of(trainer):
        if isinstance(callback, Preemption) and callback.received:
            tell(f"{callback.received.name} stopped the run at step {step}: {goes_on}")
            sys.exit(128 + callback.received)
    if step < trainer.max_steps:
        tell(f"the run ended at step {step} of {trainer.max_steps}: {goes_on}")
    exports = [each for each in callbacks_of(trainer) if isinstance(each, PretrainedExport)]
    folders = [each.directory for each in exports if each.step == step]
    if step == before and run.has_model:
        folders = [run.pretrained]
    tell(f"the trained model is in {folders[0]}" if folders else "no model was written")


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
