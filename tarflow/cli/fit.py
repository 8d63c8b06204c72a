"""A run that fits a model, whichever it is: how it starts, goes on and ends."""

import inspect
import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping
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
from tarflow.data import DividedData
from tarflow.errors import ConfigurationError
from tarflow.training import (
    BestExport,
    FitModule,
    LastCheckpoint,
    Preemption,
    PretrainedExport,
    Run,
)
from tarflow.training.fit_module import WHOLE
from tarflow.training.steps import callbacks_of

tell = rank_zero_only(print)
"""Several processes speak with one voice."""


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """The settings of every command that fits a model."""

    name: str | int = "tarflow"  # the folder under outputs/
    seed: int = 0
    # The same at every start, so that a run finds its checkpoint.
    run_dir: str = "outputs/${name}/seed_${seed}"
    resume: str = "auto"  # auto: go on from the folder's checkpoint; never: refuse one that has it
    data: Section
    objective: Section
    module: Section
    optimizer: Section
    schedule: Section
    trainer: Section
    callbacks: Section | None = None
    logger: Section | None = None


def fit(
    config: FitSettings,
    make: Callable[[Any], FitModule],
    origin: Mapping[str, Any] | None = None,
) -> float | None:
    """Fit a model and leave a run folder; returns what a sweeper may make small.

    That is the loss of the last validation, or, without one, of the last training step.

    Args:
        config: The settings of the command.
        make: Makes the module that is fitted to the data; all that is random follows the seed.
        origin: What the result depends on besides the settings, for JSON: which weights it began
            with, and the like. A run that goes on must have it as it was.
    """
    leads = rank_zero_only.rank == 0
    _say_little(leads)
    check_integer("trainer.max_steps", config.trainer.max_steps, least=1)
    if check_integer("seed", config.seed, least=0) >= 2**32:
        raise ConfigurationError(f"seed {config.seed} must be below 2**32")
    run = Run(Path(config.run_dir))
    settings = {**config.composed, **({"origin": origin} if origin else {})}
    checkpoint = run.start(settings, config.resume, leads, completed)
    done = run.step()
    if done >= config.trainer.max_steps:
        model = f"Its model: {run.pretrained}" if run.has_model else "No model was written"
        tell(f"{run.directory} is trained already: {done} steps. {model}")
        return run.noted_loss(done)
    lightning.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    data: DividedData = datamodule.data
    module = make(data)
    run.check(module)
    run.check_data(data, leads)
    trainer = make_trainer(config.trainer, config.logger, config.callbacks)
    num_parameters = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
    num_train = len(data.parts["train"])
    tell(f"{config.name}: {num_parameters:,} parameters, {num_train:,} training {data.noun}")
    if checkpoint:
        tell(f"going on from {checkpoint} at step {done}")
    with wandb_runs(trainer.loggers, config.composed):
        trainer.fit(module, datamodule, ckpt_path=checkpoint)
        _tell_end(run, trainer, done)
    loss = _last_loss(trainer, module)
    if leads and run.checkpoint.exists() and loss is not None and math.isfinite(loss):
        run.note_loss(trainer.global_step, loss)
    return loss


def _last_loss(trainer: lightning.Trainer, module: FitModule) -> float | None:
    """The loss of the last validation, or, without one, of the last step; None without either.

    It is the least of all validations where the model of that is kept.
    """
    for each in callbacks_of(trainer):
        if isinstance(each, BestExport) and math.isfinite(each.best):
            return each.best
    names = [f"{part}/{module.loss_name}" for part in ("val", "train")]
    found = [trainer.callback_metrics[name] for name in names if name in trainer.callback_metrics]
    return found[0].item() if found else None


def _say_little(leads: bool) -> None:
    """Log what is of use to who reads it, once for all processes."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("tarflow").setLevel(logging.INFO if leads else logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6 on torch 2.15
    harmless = (
        *(".*does not have many workers", ".*smaller than the logging interval"),
        ".*in eval mode at the start of training",  # a tokenizer, which does not learn
    )
    for message in harmless:
        warnings.filterwarnings("ignore", message)


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
    best = [each for each in callbacks_of(trainer) if isinstance(each, BestExport)]
    if step < trainer.max_steps and not any(each.is_late for each in best):
        tell(f"the run ended at step {step} of {trainer.max_steps}: {goes_on}")
    exports = [each for each in callbacks_of(trainer) if isinstance(each, PretrainedExport)]
    folders = [each.directory for each in exports if each.holds(step)]
    if step == before and run.has_model:
        folders = [run.pretrained]
    tell(f"the trained model is in {folders[0]}" if folders else "no model was written")


def check_whole(trainer: Section) -> None:
    """Refuse to divide weights that processes have whole, before these meet."""
    if "ShardedStrategy" in str(trainer.get("strategy")):
        raise ConfigurationError(WHOLE)


def filled(section: Section, determined: Mapping[str, Any]) -> Any:
    """Make what a section describes, with what is determined of that which it leaves open."""
    # Hydra would turn a dataclass that is passed to it into a dictionary.
    make = instantiate(section, _partial_=True)
    missing = determined.keys() & inspect.signature(make).parameters.keys() - section.keys()
    return make(**{name: determined[name] for name in missing})
