"""Pictures of what a student draws as it learns."""

import math
from pathlib import Path
from typing import Any

from lightning import Trainer
from torch import Tensor

from tarflow.arguments import check_real
from tarflow.errors import ConfigurationError
from tarflow.randomness import ExampleSeeds
from tarflow.registry import register
from tarflow.students.student import Student
from tarflow.training.callbacks import SampleGrid


@register
class StudentGrid(SampleGrid):
    """Draws the same noise through the averaged student as it trains; see `SampleGrid`.

    Args:
        directory: As for `SampleGrid`, and so are `every_n_steps` and `num_samples`.
        weight: Weight of the guidance; 0 is none.
        steps: Number of steps; by default that of the student.
    """

    def __init__(
        self,
        directory: Path | str,
        every_n_steps: int = 1000,
        num_samples: int = 100,
        weight: float = 0.0,
        steps: int | None = None,
    ):
        super().__init__(directory, every_n_steps, num_samples)
        self.weight, self.steps = float(check_real("weight", weight)), steps
        if not math.isfinite(self.weight):
            raise ConfigurationError(f"weight {weight} of guidance must be finite")

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.model.read_steps(self.steps)  # before minutes of training

    def samples(self, model: Student, label: Tensor | None, indices: range) -> Tensor:
        """Samples of some indices and labels."""
        options = {"weight": self.weight, "steps": self.steps, "source": ExampleSeeds(0, indices)}
        return model.sample(len(indices), label, **options)
