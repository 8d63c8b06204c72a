"""The state of training on disk, and what makes a run stop before its end."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import lightning
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError

from tarflow.arguments import check_integer
from tarflow.errors import CheckpointError
from tarflow.registry import register


@register
class LastCheckpoint(Callback):
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

    def on_train_start(self, trainer, pl_module) -> None:
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Write the state, unless it is written; all processes have to take part.

        Raises:
            CheckpointError: It cannot be written; what was written before is untouched.
        """
        if trainer.global_step == self._saved_step:
            return
        new = self.path.with_name(f".{self.path.name}.new")
        try:
            trainer.save_checkpoint(new)
            if trainer.is_global_zero:
                os.replace(new, self.path)
        except (OSError, RuntimeError, SafetensorError) as error:
            new.unlink(missing_ok=True)  # half a file would take the space that is wanted
            raise CheckpointError(
                f"the state of step {trainer.global_step} cannot be written to {self.path}"
                f" ({error}). {self._kept()}: make room, and give the same command again"
            ) from error
        self._saved_step = trainer.global_step

    def _kept(self) -> str:
        """What a failure leaves."""
        if self._saved_step:
            return f"That of step {self._saved_step} is kept there"
        return "None was written before"


@register
class Preemption(Callback):
    """Ends a run in good order when it is told to stop: it writes its state at the next step.

    A job of Slurm is put back into the queue, unless it was cancelled; the same command goes on
    from there. A signal to one process ends all of them at the same step.

    The state is written by the run's `LastCheckpoint`.

    Args:
        signals: Names of the signals that end the run.

    Attributes:
        received: The signal that ended the run, if one did.
    """

    def __init__(self, signals: Sequence[str] = ("SIGTERM", "SIGUSR1")):
        self.signals = [signal.Signals[name] for name in signals]
        self.received: signal.Signals | None = None
        self._before: dict = {}
        self._step = 0

    def on_train_start(self, trainer, pl_module) -> None:
        self._step = trainer.global_step
        self._before = {each: signal.signal(each, self._receive) for each in self.signals}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        told = self.received is not None
        if trainer.strategy.reduce_boolean_decision(told, all=False):
            self.received = self.received or self.signals[0]
            for callback in callbacks_of(trainer):
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)
            trainer.should_stop = True
            if trainer.is_global_zero:
                requeue()

    def on_train_end(self, trainer, pl_module) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def on_exception(self, trainer, pl_module, exception) -> None:
        self.on_train_end(trainer, pl_module)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.received = signal.Signals(number)


def callbacks_of(trainer: lightning.Trainer) -> list[Callback]:
    """The callbacks of a run, in their order."""
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]


def requeue() -> None:
    """Put this job of Slurm back into the queue; nothing outside of Slurm.

    In a container there is no `scontrol`: the batch script requeues by the exit code.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job else os.environ.get("SLURM_JOB_ID")
    if name is None or shutil.which("scontrol") is None:
        return
    state = _scontrol("show", "job", name)
    if "JobState=CANCELLED" not in state:
        _scontrol("requeue", name)


def _scontrol(*arguments: str) -> str:
    """What Slurm answers.

    Raises:
        CheckpointError: It cannot be asked, or refuses.
    """
    try:
        answer = subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise CheckpointError(
            f"the state of training is written, but `scontrol {' '.join(arguments)}` failed"
            f" ({error}): submit the job again"
        ) from error
    return answer.stdout
