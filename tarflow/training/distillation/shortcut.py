"""Shortcut models: velocities over steps of any size (arXiv 2410.12557)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tarflow.arguments import check_instance, check_integer, check_real
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource, uniform
from tarflow.students.velocity_student import ShortcutStudent, VelocityStudent
from tarflow.training.distillation.clean import Clean, beside
from tarflow.training.distillation.couplings import Coupling
from tarflow.training.distillation.flow_matching import Course, FlowMatching, between
from tarflow.training.distillation.guidance_weights import GuidanceWeights, Unguided
from tarflow.training.distillation.image_distances import Distance
from tarflow.training.distillation.step_counter import StepCounter
from tarflow.training.distillation.time_draws import PinnedTimes, TimeDraws
from tarflow.training.distillation.unlearned import average, constant
from tarflow.training.objective import Loss

FOURTH = slice(3, None, 4)
"""The examples that teach consistency."""


@dataclass(frozen=True)
class HalfSteps:
    """Two half steps that a whole one should equal.

    Attributes:
        time: The time at which they begin, a multiple of the whole step.
        half: The size of one of them.
        told: The size that the network is told: 0 for the smallest, which flow matching teaches.
    """

    time: PerExample
    half: PerExample
    told: PerExample


class Shortcut(FlowMatching):
    r"""Flow matching for three quarters of a batch; for one, two half steps equal a whole.

    Where $v(x_t, t, d)$ is the mean velocity over the step from t to t - d, consistency is

    $$v(x_t, t, 2d) = (v(x_t, t, d) + v(x_{t-d}, t - d, d)) / 2$$

    with $x_{t-d} = x_t - d v(x_t, t, d)$, and the right side by averaged weights. Whole steps are
    1, 1/2, ... 1 / `most_steps`, all as likely, and t is a multiple of them, so that one network
    serves 1, 2, 4, ... `most_steps` steps. Validation measures flow matching alone.

    Args:
        student: The student.
        teacher: The flow, and what follows, as in `FlowMatching`.
        most_steps: A power of two.
        decay: Decay rate of the averaged weights per batch; while the run is young,
            (1 + n) / (10 + n) if that is less.
    """

    def __init__(
        self,
        student: ShortcutStudent,
        teacher: Flow | None = None,
        *,
        coupling: Coupling | None = None,
        times: TimeDraws = PinnedTimes(),
        distance: Distance | None = None,
        most_steps: int = 128,
        decay: float = 0.999,
        class_dropout: float = 0.1,
        weights: GuidanceWeights = Unguided(),
    ):
        parts = {"coupling": coupling, "times": times, "distance": distance, "weights": weights}
        super().__init__(student, teacher, class_dropout=class_dropout, **parts)
        check_instance("student", student, ShortcutStudent, "it is told the size of its steps")
        self.most_steps = check_integer("most_steps", most_steps, least=1)
        if self.most_steps.bit_count() != 1:
            raise ConfigurationError(f"most_steps {most_steps} must be a power of two")
        self.decay = float(check_real("decay", decay))
        if not 0 <= self.decay < 1:
            raise ConfigurationError(f"decay {decay} must be in [0, 1)")
        self.averaged = constant(student)
        self.batches = StepCounter()

    def forward(self, student: VelocityStudent, batch: Batch, source: RandomSource) -> Loss:
        if self.training:
            self.follow(student)
        return super().forward(student, batch, source)

    def follow(self, student: VelocityStudent) -> None:
        """Move the averaged weights towards those of the student; at first, to them."""
        number = int(self.batches)
        kept = min(self.decay, (1 + number) / (10 + number)) if number else 0.0
        average(self.averaged, student, 1 - kept)
        self.batches.advance()

    def course(
        self, student: VelocityStudent, clean: Clean, z: Examples, source: RandomSource
    ) -> Course:
        course = super().course(student, clean, z, source)
        if not self.training:  # the mean over examples is the same however they are batched
            return course
        steps = self.half_steps(clean.x, source)
        start = between(clean.x, z, steps.time)
        rows = FOURTH
        context = clean.context.map(lambda part: part[rows])
        time, half, told = (each[rows] for each in (steps.time, steps.half, steps.told))

        def velocity(x: Tensor, time: PerExample) -> Tensor:
            weight = clean.weight[rows]
            return self.averaged.velocity(x, time, context, weight=weight, step=told)

        first = velocity(start[rows], time)
        second = velocity(start[rows] - beside(half, first) * first, time - half)
        return Course(
            _replaced(course.x, start[rows]),
            _replaced(course.time, time),
            _replaced(course.step, 2 * half),
            _replaced(course.velocity, (first + second) / 2),
        )

    def half_steps(self, x: Examples, source: RandomSource) -> HalfSteps:
        """Draw a step size and a time for each example."""
        wide = torch.promote_types(x.dtype, torch.float32)
        draw = uniform((len(x), 2), source, wide, x.device, "step")
        kinds = self.most_steps.bit_length()
        exponent = (draw[:, 0] * kinds).floor()
        count = 2**exponent  # of whole steps between noise and data
        time = ((draw[:, 1] * count).floor() + 1) / count
        half = 0.5 / count
        told = half.masked_fill(exponent == kinds - 1, 0)
        return HalfSteps(*(each.to(x.dtype) for each in (time, half, told)))


def _replaced(values: Tensor, others: Tensor) -> Tensor:
    """Values with others in place of those of every fourth example."""
    values = values.clone()
    values[FOURTH] = others
    return values
