"""A sampler of students."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tarflow.arguments import check_real
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.sampler import Sampler
from tarflow.students.student import Student


@dataclass(frozen=True)
class StudentSampler(Sampler):
    """Draws samples of a student.

    Attributes:
        model: The student.
        weight: Weight of the guidance; 0 is none.
        steps: Number of steps; None is the student's own.
    """

    model: Student
    weight: float = 0.0
    steps: int | None = None
    _drawn: ChunkSize = field(default_factory=ChunkSize, repr=False)

    def __post_init__(self):
        self.model.read_steps(self.steps)  # which checks it
        check_weight(self.weight)

    @property
    def panels(self) -> tuple[str, ...]:
        return ("samples",)

    @property
    def certificates(self) -> type[Certificates]:
        return Certificates

    @property
    def choices(self) -> dict[str, Any]:
        steps, dtype = self.model.read_steps(self.steps), self.model.base.anchor.dtype
        precision = {} if dtype == torch.float32 else {"dtype": str(dtype)}
        return {"guidance": self.weight, "steps": steps, **precision}

    def draw(self, indices: range, context: Context) -> tuple[dict[str, Tensor], Certificates]:
        certificates: list[dict[str, np.ndarray]] = []

        def compute(rows: slice) -> Tensor:
            source = ExampleSeeds(self.seed, indices[rows])
            x, known = self.judged(source, context.map(lambda part: part[rows]))
            certificates.append(vars(known))
            return x

        x = self._drawn.map(compute, len(indices))
        return {"samples": x}, self.certificates.join(certificates)

    def judged(self, source: ExampleSeeds, context: Context) -> tuple[Tensor, Certificates]:
        """Draw some samples, and tell what is known of them."""
        told = {"weight": self.weight, "steps": self.steps, "source": source}
        return finite(self.model.sample(len(source), context, **told))


def check_weight(weight: float) -> None:
    """Refuse a weight of guidance that is not a number of at least 0."""
    if not 0 <= check_real("guidance", weight) < torch.inf:
        raise ConfigurationError(f"guidance {weight} must be a finite weight of at least 0")


def finite(x: Tensor) -> tuple[Tensor, Certificates]:
    """Samples of a student, those that are not finite NaN; and which these are."""
    fine = x.isfinite().flatten(1).all(dim=1)
    why = np.where(fine.cpu().numpy(), "", "the student")
    return x.where(fine.view(-1, *(1,) * (x.ndim - 1)), torch.nan), Certificates(why)
