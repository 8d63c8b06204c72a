"""The state of training on disk, however a run ends."""

import logging
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors import SafetensorError
from torch.optim import Optimizer

from tarflow.arguments import check_integer
from tarflow.errors import CheckpointError
from tarflow.machine.files import put
from tarflow.registry import register
from tarflow.training.averaging import WeightAveraging
from tarflow.training.skipping import DivergenceError
from tarflow.training.steps import StepCallback, callbacks_of

NOT_TO_GO_ON_FROM = (KeyboardInterrupt, DivergenceError, CheckpointError)
"""What ends a run at once, or because of its state, or of the writing."""

log = logging.getLogger(__name__)


@register
class LastCheckpoint(StepCallback):
    """Keeps the newest state of training in one file, which is replaced whole.

    It is written now and then, and when training ends: by its last step, epoch or minute, by a
    callback that stops it, or by an error. Not by an error amid an update of the weights, nor by
    one of sharded training, where all processes have to write; what was written before stays.

    Lightning's own writer copies across file systems where the temporary folder is on another one,
    and a kill during the copy would leave half a file.

    Args:
        path: The file.
        every_n_steps: Steps between two writes; the last step is always written.

    Attributes:
        step: The step whose state is in the file.
    """

    def __init__(self, path: Path | str, every_n_steps: int = 1000):
        self.path = Path(path)
        self.every_n_steps = check_integer("every_n_steps", every_n_steps, least=1)
        self.step = 0
        self._updated: int | None = None  # the step whose update of the weights began last
        self._place: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.step, self._updated, self._place = trainer.global_step, None, {}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        self._updated = trainer.global_step

    def after_step(self, trainer: Trainer, module: Any) -> None:
        self._place = _place(trainer)
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        amid_update = self._updated == trainer.global_step
        if isinstance(exception, NOT_TO_GO_ON_FROM) or amid_update:
            return
        if trainer.world_size > 1 and isinstance(trainer.strategy, ModelParallelStrategy):
            return  # others may wait for this process elsewhere
        try:
            self.save(trainer, together=False)
        except Exception as error:  # the run ends by the one that it ends by
            log.warning(f"after an error, the last state was not written either: {error}")
        else:
            log.info(f"an error ended the run: {self.path} holds step {self.step}")

    def save(self, trainer: Trainer, together: bool = True) -> None:
        """Write the state after the last step, unless it is written.

        Args:
            trainer: The trainer.
            together: Whether all processes take part; else the first does what it can alone.

        Raises:
            CheckpointError: It cannot be written; what was written before is untouched.
        """
        step, before = trainer.global_step, self.step
        if step == before:
            return
        self._complete(trainer)
        self.step = step
        if not together and not trainer.is_global_zero:
            return
        new = self.path.with_name(f".{self.path.name}.new")
        try:
            trainer.strategy.save_checkpoint(self._state(trainer), new)
            if together:
                trainer.strategy.barrier("LastCheckpoint.save")
            if trainer.is_global_zero:
                put(new, self.path)
        except (OSError, RuntimeError, SafetensorError) as error:
            self.step = before
            new.unlink(missing_ok=True)  # half a file would take the space that is wanted
            kept = f"That of step {before} is kept there" if before else "None was written before"
            raise CheckpointError(
                f"the state of step {step} cannot be written to {self.path} ({error}). {kept}:"
                " make room, and give the same command again"
            ) from error

    def _complete(self, trainer: Trainer) -> None:
        """Undo what an error left half done after the last step, and do what it left out."""
        for callback in callbacks_of(trainer):
            if isinstance(callback, WeightAveraging):
                callback.restore()
                callback.catch_up(trainer, trainer.lightning_module)
        if self._step != trainer.global_step:
            self._step, self._place = trainer.global_step, _place(trainer)

    def _state(self, trainer: Trainer) -> dict[str, Any]:
        """What Lightning keeps, at the place of the last step.

        Its counters go on after a step: at the end of an epoch or of training they tell of one
        that is over, and in the midst of accumulated gradients of some that are lost.
        """
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        state["loops"]["fit_loop"] = self._place["loop"]
        return state | self._place["rest"]


def _place(trainer: Trainer) -> dict[str, Any]:
    """How far the loops and the data are."""
    datamodule = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    state = {} if datamodule is None else datamodule.state_dict()
    rest: dict[str, Any] = {"epoch": trainer.current_epoch}
    if state:
        rest[type(datamodule).__qualname__] = state
    return {"loop": trainer.fit_loop.state_dict(), "rest": rest}
