"""Trains as `tarflow train` does, and tells how long a step took.

Every block of steps is a fit of its own by Lightning's Trainer, with the settings and callbacks of
`conf/`, so that all of its overhead counts: hooks, logging, the average of the weights, the check
for numbers that are not finite. A block can then take turns with one of another mode, which a
single long fit cannot. Left out is what happens every 1,000 steps: checkpoints and sample grids.
The first steps of a fit make the optimizer's state and do not count, and neither does its setup.
"""

import copy
import functools
import gc
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from benchmarks.training_baseline import LEARNING_RATE
from tarflow import TarFlow
from tarflow.data import ImageDataModule
from tarflow.machine.device import now
from tarflow.training import (
    FlowModule,
    StepProgressBar,
    WeightAveraging,
    adamw,
    warmup_cosine,
)

LIGHTNING = {
    torch.float32: "32-true",
    torch.bfloat16: "bf16-mixed",
    torch.float16: "16-mixed",
}
HARMLESS = (".*LeafSpec", ".*does not have many workers", ".*smaller than the logging interval")


class StepTimer(Callback):
    """Times the steps after the first ones, with all that lies between two of them.

    Args:
        device: The device, which has to be done with a step before the clock is read.
        warmup: Number of steps that do not count.
        steps: Number of steps that do.
    """

    def __init__(self, device: torch.device, warmup: int, steps: int):
        self.device, self.warmup, self.steps = device, warmup, steps
        self.begin = self.end = 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.warmup:
            self.begin = now(self.device)
        elif trainer.global_step == self.warmup + self.steps:
            self.end = now(self.device)

    @property
    def seconds(self) -> float:
        """Of a step."""
        return (self.end - self.begin) / self.steps


class PackageTraining:
    """Trains a copy of a flow by the package's own means.

    Args:
        flow: The flow.
        data: Batches of its images.
        dtype: Precision in which transformers compute.
        device: Where to train.
        options: Further arguments of `FlowModule`: what sets one mode apart from another.
        monitors: Kinds of callbacks that every fit has besides those it needs.
    """

    def __init__(
        self,
        flow: TarFlow,
        data: ImageDataModule,
        dtype: torch.dtype,
        device: torch.device,
        options: Mapping[str, Any],
        monitors: Sequence[type[Callback]] = (),
    ):
        self.monitors = monitors
        self.data, self.dtype, self.device = data, dtype, device
        schedule = functools.partial(warmup_cosine, total_steps=1_000_000, warmup_steps=0)
        optimizer = functools.partial(adamw, lr=LEARNING_RATE)
        self.module = FlowModule(copy.deepcopy(flow), optimizer, schedule, **options)

    def run(self, warmup: int, steps: int, profiler: Any = None) -> float:
        """Fit with a new optimizer; return the seconds of a step after the first ones.

        Args:
            warmup: Number of steps that do not count: at least 1.
            steps: Number of steps that do.
            profiler: One of Lightning's.
        """
        timer = StepTimer(self.device, warmup, steps)
        try:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                for harmless in HARMLESS:
                    warnings.filterwarnings("ignore", harmless)
                trainer = self._make_trainer(folder, timer, warmup + steps, profiler)
                trainer.fit(self.module.train(), self.data)
            return timer.seconds
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Leave the device to other modes: no gradients, optimizer, or average of the weights."""
        self.module.zero_grad()
        self.module.cpu()
        self.module.trainer = self.data.trainer = None
        gc.collect()

    def _make_trainer(
        self, folder: str, timer: StepTimer, max_steps: int, profiler: Any
    ) -> lightning.Trainer:
        """A trainer with the settings of `conf/trainer` and the callbacks of every step."""
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        progress = StepProgressBar()
        progress.disable()  # it still reads the metrics at every step, and draws nothing
        return lightning.Trainer(
            max_steps=max_steps,
            max_epochs=-1,
            accelerator=self.device.type,
            devices=1,
            precision=LIGHTNING[self.dtype],  # pyright: ignore[reportArgumentType]
            log_every_n_steps=10,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            logger=CSVLogger(folder),
            callbacks=[
                WeightAveraging(),
                *(monitor() for monitor in self.monitors),
                progress,
                LearningRateMonitor(),
                timer,
            ],
            profiler=profiler,
        )
