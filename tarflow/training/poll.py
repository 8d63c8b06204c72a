"""A question that the processes of a run ask each other now and then."""

import time
from typing import cast

import torch
from lightning import Trainer
from torch import Tensor

from tarflow.training.late import Late


class Poll:
    """Asks all processes of a run about as often as it should, at steps that all agree on.

    Asking takes as long as the slowest process does: after every step, that costs time. On a GPU
    the answer is heard after the next step, so that nobody waits for the device.

    Args:
        seconds: Seconds between two questions, at the pace of the slowest process; a question is
            asked after a step, and with 0 after every one. A process alone is always asked.
        step: Number of steps taken before.
    """

    def __init__(self, seconds: float, step: int):
        self.seconds = seconds
        self._asked, self._step, self._next = time.monotonic(), step, step + 1
        self._answers: Late | None = None

    def __call__(self, trainer: Trainer, answer: bool, device: torch.device) -> bool:
        """Whether any process answers yes; no while nobody asks."""
        step = trainer.global_step
        if trainer.world_size == 1:
            return answer
        answers, last = self._answers, step == trainer.max_steps
        if answers is None or last:
            if step < self._next and not last:
                return False
            answers = self._answers = self._ask(trainer, answer, device)
            if not (answers.at_once or last):
                return False
        any_yes, pace = answers()
        self._answers, self._asked, self._step = None, time.monotonic(), step
        self._next = step + max(1, int(self.seconds / pace))
        return any_yes > 0

    def _ask(self, trainer: Trainer, answer: bool, device: torch.device) -> Late:
        """What any process answers, and the seconds that a step took in the slowest."""
        steps = max(1, trainer.global_step - self._step)
        own = torch.tensor([float(answer), (time.monotonic() - self._asked) / steps])
        own = own.pin_memory() if device.type == "cuda" else own
        answers = trainer.strategy.reduce(own.to(device, non_blocking=True), reduce_op="max")
        return Late(cast(Tensor, answers))
