"""What makes a run stop before its end."""

import math
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from lightning import Trainer

from tarflow.arguments import check_real
from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.registry import register
from tarflow.training.checkpoints import LastCheckpoint
from tarflow.training.poll import Poll
from tarflow.training.steps import StepCallback, callbacks_of

LIGHTNINGS = "_broadcast_sigterm_tensor"
"""By which Lightning's processes tell each other of SIGTERM."""


@register
class Preemption(StepCallback):
    """Ends a run in good order when it is told to stop: `LastCheckpoint` writes the next state.

    A job of Slurm is put back into the queue, unless it was cancelled or stopped by hand; the same
    command goes on from there. A signal to one process ends all of them at the same step. A second
    SIGINT (ctrl-C) ends the program at once. Python allows signals in the main thread only: a run
    in another goes on without.

    Args:
        signals: Names of the signals that end the run.
        seconds: Several processes ask each other for signals about as often; with 0 after every
            step, as a process alone does.

    Attributes:
        received: The signal that ended the run, if one did.
    """

    def __init__(
        self, signals: Sequence[str] = ("SIGTERM", "SIGUSR1", "SIGINT"), seconds: float = 1.0
    ):
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown or not signals:
            raise ConfigurationError(
                f"signals {list(signals)}: needed are one or more of this system's names, such as"
                " SIGTERM and SIGINT; callbacks.preemption=null is without"
            )
        self.signals = [signal.Signals[name] for name in signals]
        check_real("seconds", seconds)
        if not 0 <= seconds < math.inf:
            raise ConfigurationError(f"seconds {seconds} must be finite and not negative")
        self.seconds = seconds
        self.received: signal.Signals | None = None
        self._poll = Poll(seconds, 0)
        self._before: dict = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.received = None
        self._poll = Poll(self.seconds, trainer.global_step)
        if threading.current_thread() is threading.main_thread():
            for each in self.signals:
                self._before[each] = signal.signal(each, self._receive) or signal.SIG_DFL
        # Lightning's processes would ask each other before every batch, and wait for the device.
        setattr(trainer.fit_loop.epoch_loop, LIGHTNINGS, lambda: None)

    def after_step(self, trainer: Trainer, module: Any) -> None:
        if self._poll(trainer, self.received is not None, module.device):
            self.received = self.received or self.signals[0]
            for callback in callbacks_of(trainer):
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)
            trainer.should_stop = True
            # Or Lightning would go on until these, and then validate.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
            trainer.limit_val_batches = 0
            if trainer.is_global_zero and self.received is not signal.SIGINT:
                requeue()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        vars(trainer.fit_loop.epoch_loop).pop(LIGHTNINGS, None)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; one from the keyboard is noted once."""
        self.received = signal.Signals(number)
        # torchrun passes on what the terminal has sent to all processes already.
        if self.received is signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(number, self._before[number])


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
