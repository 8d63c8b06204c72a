"""Flow matching on a coupling of data and noise (arXiv 2210.02747, 2603.09014)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_instance
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource
from tarflow.students.velocity_student import VelocityStudent
from tarflow.training.distillation.clean import (
    Clean,
    Kept,
    beside,
    finite,
    kept_loss,
    marked,
    where_kept,
)
from tarflow.training.distillation.couplings import Coupling, FlowCoupling
from tarflow.training.distillation.guidance_weights import GuidanceWeights, Unguided, guided
from tarflow.training.distillation.image_distances import Distance, SquaredError
from tarflow.training.distillation.student_objective import StudentObjective, nulled
from tarflow.training.distillation.time_draws import PinnedTimes, TimeDraws
from tarflow.training.objective import Loss


@dataclass(frozen=True)
class Course:
    """What the velocity should be at some points between data and noise.

    Attributes:
        x: The points.
        time: The time of each.
        step: The size of the step whose mean velocity is meant; 0 for that of the moment.
        velocity: What it should be.
    """

    x: Examples
    time: PerExample
    step: PerExample
    velocity: Examples


class FlowMatching(StudentObjective):
    r"""Regresses $v(x_t, t)$ on $z - x$ at $x_t = (1 - t) x + t z$, with clean data x.

    The loss is $D(z - v, x)$, the distance from the data of where a straight line from the noise
    leads; for the squared error that is $|v - (z - x)|^2$. Guided by w, the velocity is regressed
    on $(1 + w) (z - x) - w v(x_t, t | \mathrm{null})$ with the student's own null prediction,
    detached.

    Args:
        student: The student.
        teacher: The flow; None for a coupling that needs none.
        coupling: Which noise belongs to which data.
        times: At which times it trains.
        distance: D, a distance of images.
        class_dropout: As in `StudentObjective`, and so is what follows.
    """

    def __init__(
        self,
        student: VelocityStudent,
        teacher: Flow | None = None,
        *,
        coupling: Coupling | None = None,
        times: TimeDraws = PinnedTimes(),
        distance: Distance | None = None,
        class_dropout: float = 0.1,
        weights: GuidanceWeights = Unguided(),
    ):
        super().__init__(student, teacher, class_dropout=class_dropout, weights=weights)
        check_instance("student", student, VelocityStudent, "flow matching teaches those alone")
        check_instance("times", times, TimeDraws, "pass one, such as PinnedTimes()")
        self.coupling = FlowCoupling() if coupling is None else coupling
        check_instance("coupling", self.coupling, Coupling, "pass one, such as FlowCoupling()")
        self.distance = SquaredError() if distance is None else distance
        check_instance("distance", self.distance, Distance, "pass one, such as SquaredError()")
        self.times = times
        if teacher is None and self.coupling.needs_teacher:
            raise ConfigurationError(
                f"{type(self.coupling).__name__} takes the noise of a flow: pass a teacher, or"
                " IndependentCoupling()"
            )

    def forward(self, student: VelocityStudent, batch: Batch, source: RandomSource) -> Loss:
        clean, kept, value = self.error(student, batch, source)
        return kept_loss(value, kept, clean)

    @torch.no_grad()
    def validate(
        self, student: VelocityStudent, batch: Batch, source: RandomSource
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        _, kept, value = self.error(student, batch, source)
        return {self.name: marked(value / student.num_dims, kept)}

    def error(
        self, student: VelocityStudent, batch: Batch, source: RandomSource
    ) -> tuple[Clean, Kept, PerExample]:
        """The loss of each example, and which of them count."""
        with torch.no_grad():
            clean = self.read(student, batch, source)
            z = self.coupling(self.teacher if self.has_teacher else None, clean, source)
            kept = finite(z, clean.x)
            z, clean = where_kept(kept, z), replace(clean, x=where_kept(kept, clean.x))
            course = self.course(student, clean, z, source)
        told = {"weight": clean.weight, "step": course.step}
        velocity = student.velocity(course.x, course.time, clean.context, **told)
        return clean, kept, self.distance(z - velocity, z - course.velocity)

    def course(
        self, student: VelocityStudent, clean: Clean, z: Examples, source: RandomSource
    ) -> Course:
        """Points between data and noise, and the velocity there."""
        time = self.times(clean.x, source)
        x = between(clean.x, z, time)
        velocity, at_once = z - clean.x, torch.zeros_like(time)
        if self.is_guided():
            null = student.velocity(x, time, nulled(student, clean))
            velocity = guided(velocity, null, clean.pull)
        return Course(x, time, at_once, velocity)


def between(x: Examples, z: Examples, time: PerExample) -> Examples:
    """The points $(1 - t) x + t z$."""
    t = beside(time, x)
    return (1 - t) * x + t * z
