"""Score distillation, with a flow's own exact score as the teacher."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_instance, check_integer, check_real
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.flows.unit import nats_per_dim
from tarflow.randomness import RandomSource
from tarflow.sampling.denoising import can_denoise
from tarflow.students.student import Student
from tarflow.training.distillation.clean import (
    Clean,
    Kept,
    beside,
    finite,
    kept_loss,
    marked,
    where_kept,
)
from tarflow.training.distillation.gradient_scale import ByDistance, GradientScale
from tarflow.training.distillation.guidance_weights import GuidanceWeights, Unguided
from tarflow.training.distillation.second_network import SecondNetwork, unmoved
from tarflow.training.distillation.step_counter import StepCounter
from tarflow.training.distillation.student_objective import StudentObjective, not_negative
from tarflow.training.distillation.teaching import clean_mean, levels, noisy
from tarflow.training.distillation.together import summed
from tarflow.training.objective import Loss

MakeObjective = Callable[[Student, Flow], StudentObjective]
"""Makes an objective of a student and its teacher."""


@dataclass(frozen=True)
class Noised:
    """Samples of a student with noise that the teacher knows.

    Attributes:
        sample: The samples, what they were conditioned on, and their guidance weights.
        x: The same with noise.
        context: What the teacher's density of them is conditioned on.
        level: The standard deviation of the noise in each.
    """

    sample: Clean
    x: Examples
    context: Context
    level: PerExample


class ScoreObjective(StudentObjective):
    r"""Moves the student's samples to where the teacher's density has more than the student's.

    The teacher tells $D^* = x_t + t^2 \nabla \log p(x_t; t)$ at the noise levels t that it was
    trained for: one for a plain flow, a draw of many for others. A second network $D_\psi$ learns
    to denoise the student's samples, in several steps for each of the student. One optimizer
    serves both, since it passes over what has no gradient in a step. Which network learns from a
    batch follows from the number of batches before it.

    Args:
        student: The student, of any kind.
        teacher: A flow with Gaussian noise.
        second: Describes the second network.
        second_steps: Number of steps for the second network before each of the student.
        warm_up: Number of steps at first for the second network alone.
        scale: Brings gradients to one size.
        largest_score: The largest entry of the teacher's score; others are clamped.
        parts: Number of batches of which a step of the optimizer is made: all are for one network.
        steps: Numbers of steps in which the student makes its samples, one after the other; by
            default its own.
        alongside: Makes another objective, for the student to learn from in the same batches.
        alongside_weight: Factor of its loss.
        class_dropout: As in `StudentObjective`, and so is what follows.
    """

    learns_in_turns = True
    denoising: Tensor
    gap: Tensor

    def __init__(
        self,
        student: Student,
        teacher: Flow,
        *,
        second: SecondNetwork = SecondNetwork(),
        second_steps: int = 3,
        warm_up: int = 0,
        scale: GradientScale = ByDistance(),
        largest_score: float = 100.0,
        parts: int = 1,
        steps: Sequence[int] | int | None = None,
        alongside: MakeObjective | None = None,
        alongside_weight: float = 1.0,
        class_dropout: float = 0.1,
        weights: GuidanceWeights = Unguided(),
    ):
        super().__init__(student, teacher, class_dropout=class_dropout, weights=weights)
        if not can_denoise(self.teacher):
            raise ConfigurationError(
                f"the teacher was trained with {self.teacher.noise}, but scores are of data with"
                " Gaussian noise: take a flow that was trained with noise=gaussian or noise=levels"
            )
        check_instance("scale", scale, GradientScale, "pass one, such as ByDistance()")
        self.second_steps = check_integer("second_steps", second_steps, least=0)
        self.warm_up = check_integer("warm_up", warm_up, least=0)
        self.largest_score = float(check_real("largest_score", largest_score))
        if not self.largest_score > 0:
            raise ConfigurationError(f"largest_score {largest_score} must be positive")
        self.parts = check_integer("parts", parts, least=1)
        self.scale = scale
        self.steps = _read_steps(student, steps)
        self.second = second(student)
        self.alongside = None if alongside is None else alongside(student, self.teacher)
        self.alongside_weight = not_negative("alongside_weight", alongside_weight)
        self.batches = StepCounter()
        for name in ("denoising", "gap"):  # what was logged last
            self.register_buffer(name, torch.zeros((), device=student.base.anchor.device))

    def go_on(self, steps: int, parts: int) -> None:
        self.parts = parts
        self.batches.put(steps * parts)

    def forward(self, student: Student, batch: Batch, source: RandomSource) -> Loss:
        turn = self.teach if self.is_students_turn() else self.learn
        loss = turn(student, batch, source)
        if self.training:
            self.batches.advance()
        return loss

    @torch.no_grad()
    def validate(
        self, student: Student, batch: Batch, source: RandomSource
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        noised = self.noised(student, batch, source)
        told, mean = self.student_mean(noised), self.teacher_mean(noised)
        kept = finite(told, mean)
        found = {
            self.name: self.gaps(noised, told, mean),
            "denoising": self.errors(noised, told),
            nats_per_dim(self.teacher): -self.teacher.log_prob(noised.x, noised.context),
        }
        return {k: marked(v / student.num_dims, kept) for k, v in found.items()}

    def is_students_turn(self) -> bool:
        """Whether the student learns from the next batch, and not the second network."""
        return self._step >= 0 and self._step % self._period == self.second_steps

    def learn(self, student: Student, batch: Batch, source: RandomSource) -> Loss:
        """The loss of the second network: how well it denoises samples."""
        with torch.no_grad():
            noised = self.noised(student, batch, source)
            kept = finite(noised.x)
            noised = replace(noised, x=where_kept(kept, noised.x))
        sample = noised.sample
        told = self.second(noised.x, noised.level, sample.context, sample.weight)
        value = where_kept(kept, self.errors(noised, told))
        return self._told(value, kept, sample, student, "denoising", value)

    def teach(self, student: Student, batch: Batch, source: RandomSource) -> Loss:
        """The loss of the student: the gap in value, and the gradient of `directions`."""
        noised = self.noised(student, batch, source)
        x = noised.sample.x
        gradient, gap, kept = self.directions(noised)
        value = gap + (gradient * (x - x.detach())).flatten(1).sum(dim=1)  # which adds nothing
        loss = self._told(value, kept, noised.sample, student, "gap", gap)
        if self.alongside is None or not self.alongside_weight:
            return loss
        other = self.alongside(student, batch, source)
        logged = {f"alongside_{k}": v for k, v in other.logged.items()}
        logged |= {"alongside": other.value / student.num_dims}
        total = loss.value + self.alongside_weight * other.value
        return replace(loss, value=total, logged={**loss.logged, **logged})

    @abstractmethod
    def directions(self, noised: Noised) -> tuple[Examples, PerExample, Kept]:
        """The gradient at each sample, the gap between the two means, and what counts."""

    def noised(self, student: Student, batch: Batch, source: RandomSource) -> Noised:
        """Samples of the student, under the labels of a batch, with noise."""
        clean = self.read(student, batch, source)
        z = student.draw_noise(len(clean.x), source)
        told = {"weight": clean.weight, "steps": self._next_steps()}
        x = student.generate(z, clean.context, **told)
        return self.with_noise(replace(clean, x=x), source)

    def with_noise(self, sample: Clean, source: RandomSource) -> Noised:
        """Samples with noise at a level that the teacher knows."""
        teacher = self.teacher
        assert teacher.noise is not None
        x, context = noisy(teacher, sample, teacher.noise, source)
        return Noised(sample, x, context, levels(teacher, x, context))

    def teacher_mean(self, noised: Noised, differentiable: bool = False) -> Examples:
        """The mean of clean data as the teacher knows it."""
        return clean_mean(
            self.teacher,
            noised.x,
            noised.context,
            weight=noised.sample.pull if self.is_guided() else None,
            largest=self.largest_score,
            differentiable=differentiable,
        )

    def student_mean(self, noised: Noised) -> Examples:
        """The mean of the student's samples as the second network knows it."""
        sample = noised.sample
        return unmoved(self.second, noised.x, noised.level, sample.context, sample.weight)

    def errors(self, noised: Noised, told: Examples) -> PerExample:
        """The squared error of denoised samples, in units of the noise's variance."""
        error = (told - noised.sample.x) / beside(noised.level, told)
        return error.square().flatten(1).sum(dim=1)

    def gaps(self, noised: Noised, told: Examples, mean: Examples) -> PerExample:
        """Half of the squared distance of the two means, in the same units."""
        error = (told - mean) / beside(noised.level, told)
        return 0.5 * error.square().flatten(1).sum(dim=1)

    def _next_steps(self) -> int | None:
        """The number of steps whose turn it is."""
        if not self.steps:
            return None
        return self.steps[self._step // self._period % len(self.steps)]

    @property
    def _step(self) -> int:
        """Number of steps of the optimizer after the warm-up; below 0 in it."""
        return int(self.batches) // self.parts - self.warm_up

    @property
    def _period(self) -> int:
        """Number of steps of which one is the student's."""
        return self.second_steps + 1

    def _told(
        self, value: Tensor, kept: Kept, sample: Clean, student: Student, name: str, seen: Tensor
    ) -> Loss:
        """A loss that logs what was seen, beside what the other network's batches showed last."""
        seen = where_kept(kept, seen.detach()) / student.num_dims
        if self.training:
            total, count = summed(torch.stack([seen.sum(), kept.sum().to(seen.dtype)]))
            getattr(self, name).copy_(total / count.clamp(min=1))
        last = {key: getattr(self, key).to(seen).expand(len(seen)) for key in ("denoising", "gap")}
        return kept_loss(value, kept, sample, **{**last, name: seen})


def _read_steps(student: Student, steps: Sequence[int] | int | None) -> tuple[int, ...]:
    """Numbers of steps that the student may take."""
    if steps is None:
        return ()
    listed = [steps] if isinstance(steps, int) else list(steps)
    return tuple(student.read_steps(each) for each in listed)
