"""A count of steps that a checkpoint keeps, and that no device is asked for."""

from typing import Any

import torch
from torch import Tensor, nn


class StepCounter(nn.Module):
    """Counts the training batches that an objective has seen.

    The number is a buffer, from which a resumed run goes on; the host knows it as well.
    """

    count: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self._known = 0
        self.register_load_state_dict_post_hook(_look)

    def __int__(self) -> int:
        return self._known

    def put(self, number: int) -> None:
        """Go on from a number."""
        self.count.fill_(number)
        self._known = number

    def advance(self, number: int = 1) -> None:
        """Count some more."""
        self.count += number
        self._known += number


def _look(counter: Any, incompatible: Any) -> None:
    """Read the number that was loaded."""
    counter._known = int(counter.count)
