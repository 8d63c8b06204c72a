"""A question that the processes of a run ask each other now and then."""

import time

import torch
from lightning import Trainer


class Poll:
    """Asks all processes of a run about as often as it should, at steps that all agree on.

    Asking takes as long as the slowest process does: after every step, that costs time.

    Args:
        seconds: Seconds between two questions, at the pace of the slowest process; a question is
            asked after a step, and with 0 after every one. A process alone is always asked.
        step: Number of steps taken before.
    """

    def __init__(self, seconds: float, step: int):
        self.seconds = seconds
        self._asked, self._step, self._next = time.monotonic(), step, step + 1

    def __call__(self, trainer: Trainer, answer: bool, device: torch.device) -> bool:
        """Whether any process answers yes; no while nobody asks."""
        step = trainer.global_step
        if trainer.world_size == 1:
            return answer
        if step < self._next and step != trainer.max_steps:
            return False
        pace = (time.monotonic() - self._asked) / max(1, step - self._step)
        answers = torch.tensor([float(answer), pace], device=device)
        any_yes, pace = trainer.strategy.reduce(answers, reduce_op="max").tolist()
        self._asked, self._step = time.monotonic(), step
        self._next = step + max(1, int(self.seconds / pace))
        return any_yes > 0
