"""Fits by Lightning, as the commands do, for some processor time."""

import logging
import time
import warnings
from typing import Any

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tarflow.ablation.fitting import DECAY, rate
from tarflow.data import ImageData
from tarflow.data.loading.datamodule import ImageDataModule
from tarflow.training import WeightAveraging
from tarflow.training.averaging import averages
from tarflow.training.fit_module import FitModule


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


def fit_in(budget: TimeBudget, module: FitModule, data: ImageData, batch_size: int) -> int:
    """Train until a budget is used, on the CPU; returns the number of steps.

    The model is left with averaged weights.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        trainer = lightning.Trainer(
            max_steps=-1,
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            callbacks=[WeightAveraging((DECAY,)), budget],
            plugins=[LightningEnvironment()],
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, ImageDataModule(data, batch_size))
    _, weights = next(averages(trainer, module.model))
    module.model.load_state_dict(module.exported(weights))
    return trainer.global_step
