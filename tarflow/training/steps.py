"""Callbacks that act after every optimizer step."""

from abc import ABC, abstractmethod
from typing import Any

from lightning import Trainer
from lightning.pytorch import Callback


class StepCallback(Callback, ABC):
    """Acts after every optimizer step: once, also where gradients are accumulated."""

    _step = 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.catch_up(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def catch_up(self, trainer: Trainer, module: Any) -> None:
        """Act, unless that is done after the last step."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.after_step(trainer, module)

    @abstractmethod
    def after_step(self, trainer: Trainer, module: Any) -> None:
        """Act; `trainer.global_step` counts the steps that were taken."""


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a run, in their order."""
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
