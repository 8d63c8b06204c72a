"""A scale that is bounded by an arc tangent."""

import math
from dataclasses import dataclass

from torch import Tensor

from tarflow import Scale


@dataclass(frozen=True)
class ArctanScale(Scale):
    """The log-scale stays within a bound."""

    bound: float = 2.0

    def log_scale(self, raw: Tensor) -> Tensor:
        return 2 * self.bound / math.pi * (math.pi / (2 * self.bound) * raw).atan()
