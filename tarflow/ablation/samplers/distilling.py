"""Fits a student for some processor time, by what `tarflow distill` fits it by."""

import logging
import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tarflow.ablation.fitting import DECAY, OPTIMIZERS, rate
from tarflow.ablation.samplers.methods import Method, Stage
from tarflow.data import ImageData
from tarflow.data.loading.datamodule import ImageDataModule
from tarflow.flows.flow import Flow
from tarflow.students.student import Student
from tarflow.training import StudentModule, WeightAveraging


class TimeBudget(Callback):
    """Ends training once some processor time of this process is used; it begins at once."""

    def __init__(self, seconds: float):
        self.seconds, self._start = seconds, time.process_time()

    @property
    def used(self) -> float:
        """Seconds that are used."""
        return time.process_time() - self._start

    @property
    def share(self) -> float:
        """The share that is used."""
        return min(self.used / self.seconds, 1.0)

    def on_train_batch_end(self, trainer: lightning.Trainer, *others: Any) -> None:
        trainer.should_stop = self.share >= 1

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """A learning rate that follows the share."""
        return LambdaLR(optimizer, lambda step: rate(self.share))


@dataclass(frozen=True)
class Fitted:
    """A fitted student.

    Attributes:
        student: It, with averaged weights.
        steps: Number of steps in all stages.
        skipped: How many of them were not finite, and changed nothing.
        seconds: Processor time that it took.
    """

    student: Student
    steps: int
    skipped: int
    seconds: float


def distil(method: Method, flow: Flow, data: ImageData, seconds: float, seed: int) -> Fitted:
    """Fit a new student by a method; all draws follow the seed."""
    torch.manual_seed(seed)
    start = time.process_time()
    student = method.make(flow)
    runs = [_fit(student, each, method, flow, data, seconds) for each in method.stages]
    steps, skipped = (sum(counts) for counts in zip(*runs, strict=True))
    return Fitted(student.eval(), steps, skipped, time.process_time() - start)


def _fit(
    student: Student, stage: Stage, method: Method, flow: Flow, data: ImageData, seconds: float
) -> tuple[int, int]:
    """Train a student in a stage, and leave its averaged weights in it; returns two counts."""
    budget, averaging = TimeBudget(stage.share * seconds), WeightAveraging((DECAY,))
    objective = stage.make(student, flow)
    objective.prepare(data)
    optimizer = partial(OPTIMIZERS[stage.optimizer], lr=stage.lr)
    module = StudentModule(student, objective, optimizer, budget.schedule)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        trainer = lightning.Trainer(
            max_steps=-1,
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            callbacks=[averaging, budget],
            plugins=[LightningEnvironment()],
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, ImageDataModule(data, method.batch_size))
    student.load_state_dict(averaging.whole(DECAY, leads=True), strict=False)
    return trainer.global_step, module.skipped_steps
