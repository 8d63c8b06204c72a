"""The state of training on disk, and what makes a run stop before its end."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Trainer
from safetensors import SafetensorError

from tarflow.arguments import check_integer
from tarflow.errors import CheckpointError
from tarflow.registry import register
from tarflow.training.steps import StepCallback, callbacks_of


@register
class LastCheckpoint(StepCallback):
    """Keeps the newest state of training in one file, which is replaced whole.

    Lightning's own writer copies across file systems where the temporary folder is on another one,
    and a kill during the copy would leave half a file.

    Args:
        path: The file.
        every_n_steps: Steps between two writes; the last step is always written.
    """

    def __init__(self, path: Path | str, every_n_steps: int = 1000):
        self.path = Path(path)
        self.every_n_steps = check_integer("every_n_steps", every_n_steps, least=1)
        self._saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step

    def after_step(self, trainer: Trainer, module: Any) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the state, unless it is written; all processes have to take part.

        Raises:
            CheckpointError: It cannot be written; what was written before is untouched.
        """
        step, before = trainer.global_step, self._saved_step
        if step == before:
            return
        new = self.path.with_name(f".{self.path.name}.new")
        try:
            trainer.save_checkpoint(new)
            if trainer.is_global_zero:
                os.replace(new, self.path)
        except (OSError, RuntimeError, SafetensorError) as error:
            new.unlink(missing_ok=True)  # half a file would take the space that is wanted
            kept = f"That of step {before} is kept there" if before else "None was written before"
            raise CheckpointError(
                f"the state of step {step} cannot be written to {self.path} ({error}). {kept}:"
                " make room, and give the same command again"
            ) from error
        self._saved_step = step


@register
class Preemption(StepCallback):
    """Ends a run in good order when it is told to stop: `LastCheckpoint` writes the next state.

    A job of Slurm is put back into the queue, unless it was cancelled; the same command goes on
    from there. A signal to one process ends all of them at the same step.

    Args:
        signals: Names of the signals that end the run.

    Attributes:
        received: The signal that ended the run, if one did.
    """

    def __init__(self, signals: Sequence[str] = ("SIGTERM", "SIGUSR1")):
        self.signals = [signal.Signals[name] for name in signals]
        self.received: signal.Signals | None = None
        self._before: dict = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._before = {each: signal.signal(each, self._receive) for each in self.signals}

    def after_step(self, trainer: Trainer, module: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            self.received = self.received or self.signals[0]
            for callback in callbacks_of(trainer):
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)
            trainer.should_stop = True
            if trainer.is_global_zero:
                requeue()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.received = signal.Signals(number)


def requeue() -> None:
    """Put this job of Slurm back into the queue; nothing outside of Slurm.

    In a container there is no `scontrol`: the batch script requeues by the exit code.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job else os.environ.get("SLURM_JOB_ID")
    if name is None or shutil.which("scontrol") is None:
        return
    if "JobState=CANCELLED" not in _scontrol("show", "job", name):
        _scontrol("requeue", name)


def _scontrol(*arguments: str) -> str:
    """What Slurm answers."""
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CheckpointError(
            f"the state of training is written, but `{' '.join(command)}` failed ({error}): submit"
            " the job again"
        ) from error
