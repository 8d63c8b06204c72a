"""The model with the least held-out loss, where training goes on to learn by heart."""

import logging
import math
from pathlib import Path
from typing import Any

from lightning import Trainer

from tarflow.arguments import check_integer
from tarflow.registry import register
from tarflow.training.callbacks import PretrainedExport

log = logging.getLogger(__name__)


@register
class BestExport(PretrainedExport):
    """Writes the averaged model with the least loss on the validation part, and ends a run.

    Where there is no such part it is a `PretrainedExport`, and the last model is the one.

    Args:
        directory: As for `PretrainedExport`.
        patience: Number of validations without improvement after which the run ends.

    Attributes:
        best: The least loss.
    """

    def __init__(self, directory: Path | str, patience: int = 10):
        super().__init__(directory)
        self.patience = check_integer("patience", patience, least=1)
        self.best = math.inf
        self._late = 0

    @property
    def is_late(self) -> bool:
        """Whether there was no improvement for as long as patience lasts, which ends a run."""
        return self._late >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the least loss, and the number of validations since."""
        return {"best": self.best, "late": self._late}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self._late = state_dict["best"], state_dict["late"]

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write a model that is the best so far; the average is back in its place by now."""
        loss = trainer.callback_metrics[f"val/{pl_module.loss_name}"].item()
        if loss < self.best:
            self.best, self._late = loss, 0
            self._write(trainer, pl_module)
            return
        self._late += 1
        if self.is_late:
            log.info(
                f"val/{pl_module.loss_name} is {loss:.4g}, and was {self.best:.4g}, the least,"
                f" {self._late} validations before: training ends, and that model is kept"
            )
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict) -> None:
        if math.isinf(self.best):
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if math.isinf(self.best):
            super().on_train_end(trainer, pl_module)

    def holds(self, step: int) -> bool:
        return math.isfinite(self.best) or super().holds(step)
