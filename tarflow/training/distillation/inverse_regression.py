"""Learning the inverse of a flow from its forward direction (arXiv 2512.10953)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.arguments import check_instance
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource, normal
from tarflow.students.inverse_student import InverseStudent
from tarflow.students.placement import placed_states
from tarflow.training.distillation.clean import Clean, Kept, finite, kept_loss, marked, where_kept
from tarflow.training.distillation.guidance_weights import GuidanceWeights, Unguided, guided
from tarflow.training.distillation.image_distances import Distance, SquaredError
from tarflow.training.distillation.prior_pairs import PriorPairs
from tarflow.training.distillation.student_objective import StudentObjective, not_negative, nulled
from tarflow.training.distillation.teaching import noisy, sampled_noise
from tarflow.training.objective import Loss


@dataclass(frozen=True)
class Lesson:
    """What a learned inverse is taught by a batch.

    Attributes:
        clean: The clean data, and what it is conditioned on.
        z: The noise that the teacher makes of noisy data, in the shape of images.
        states: The teacher's states, from that next to the noise to the noisy data itself.
        kept: Which examples count.
    """

    clean: Clean
    z: Examples
    states: list[Examples]
    kept: Kept


class InverseRegression(StudentObjective):
    r"""Regresses clean data on the flow's noise, and hidden states on the flow's states.

    $$L = D(G(z), x) + a \sum_k |n(h_k(H_k)) - n(x_k)|^2$$

    z = F(x + noise); $H_k$ is what block k hands on, $h_k$ a linear head that is dropped after
    training, $x_k$ the flow's state that many transforms away from the noise, and n divides by the
    root mean square of an example (arXiv 2512.10953). Guided by w, D is from
    $(1 + w) x - w G(z | \mathrm{null})$ with the student's own null prediction, detached.

    Args:
        student: The student, with one block more than the teacher has transforms.
        teacher: The flow.
        distance: D, a distance of images.
        alignment: Factor a of the states' errors; 0 is none.
        jitter: Standard deviation of what is added to z, whose variance stays 1: what the student
            is asked is not quite what the flow makes of data.
        pairs: Pairs of prior noise and what the teacher decodes that stand in for some examples.
        noise_level: The level of the noise, for teachers of many; by default the highest.
        class_dropout: As in `StudentObjective`, and so is what follows.
    """

    def __init__(
        self,
        student: InverseStudent,
        teacher: Flow,
        *,
        distance: Distance | None = None,
        alignment: float = 1.0,
        jitter: float = 0.0,
        pairs: PriorPairs | None = None,
        noise_level: float | None = None,
        class_dropout: float = 0.1,
        weights: GuidanceWeights = Unguided(),
    ):
        super().__init__(student, teacher, class_dropout=class_dropout, weights=weights)
        check_instance("student", student, InverseStudent, "method=inverse teaches those alone")
        self.distance = SquaredError() if distance is None else distance
        check_instance("distance", self.distance, Distance, "pass one, such as SquaredError()")
        self.alignment = not_negative("alignment", alignment)
        self.jitter = not_negative("jitter", jitter)
        self.noise = sampled_noise(self.teacher, noise_level)
        self.pairs = pairs
        if pairs is not None:
            _check_pairs(pairs, noise_level)
            pairs.start(self.teacher, class_dropout)
        self.heads = nn.ModuleList(self._heads(student) if self.alignment else ())

    def forward(self, student: InverseStudent, batch: Batch, source: RandomSource) -> Loss:
        lesson = self.lesson(student, batch, source)
        image, alignment = self.errors(student, lesson)
        logged = {"image": image / student.num_dims, "alignment": alignment / student.num_dims}
        return kept_loss(image + self.alignment * alignment, lesson.kept, lesson.clean, **logged)

    @torch.no_grad()
    def validate(
        self, student: InverseStudent, batch: Batch, source: RandomSource
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        lesson = self.lesson(student, batch, source)
        image, alignment = self.errors(student, lesson)
        found = {self.name: image + self.alignment * alignment, "image": image}
        return {k: marked(v / student.num_dims, lesson.kept) for k, v in found.items()}

    @torch.no_grad()
    def lesson(self, student: InverseStudent, batch: Batch, source: RandomSource) -> Lesson:
        """What the teacher says of a batch."""
        teacher = self.teacher
        clean = self.read(student, batch, source)
        x, context = noisy(teacher, clean, self.noise, source)
        if self.training and self.pairs is not None:
            self.pairs.refresh(teacher)
            clean, x = self.pairs.mix(clean, x, source)
            context = context.updated(**teacher.known(clean.context).parts)
        *states, z = placed_states(teacher, x, context)
        states = [*reversed(states), x]
        kept = finite(z, clean.x, *states)
        if self.training and self.jitter:
            draw = normal(z.shape, source, z.dtype, z.device, "jitter")
            z = (z + self.jitter * draw) / (1 + self.jitter**2) ** 0.5
        clean = replace(clean, x=where_kept(kept, clean.x))
        return Lesson(clean, where_kept(kept, z), [where_kept(kept, s) for s in states], kept)

    def errors(self, student: InverseStudent, lesson: Lesson) -> tuple[PerExample, PerExample]:
        """The distance of each image from its target, and the error of the states."""
        clean = lesson.clean
        image, hidden = student.states(lesson.z, clean.context, weight=clean.weight)
        alignment = clean.x.new_zeros(len(clean.x))
        for head, h, state in zip(self.heads, hidden[:-1], lesson.states, strict=False):
            read = student.images(head(h), clean.x)
            error = normalized(read) - normalized(state)
            alignment = alignment + error.square().flatten(1).sum(dim=1)
        return self.distance(image, self.target(student, lesson)), alignment

    @torch.no_grad()
    def target(self, student: InverseStudent, lesson: Lesson) -> Examples:
        """The clean images, moved away from the null prediction where that is wanted."""
        clean = lesson.clean
        if not self.is_guided():
            return clean.x
        null = student.generate(lesson.z, nulled(student, clean))
        return guided(clean.x, null, clean.pull)

    def _heads(self, student: InverseStudent) -> list[nn.Module]:
        """A linear map from hidden states to patches for every block but the last."""
        blocks, count = student.description.num_blocks, self.teacher.transform.num_decoded
        if blocks != count + 1:
            raise ConfigurationError(
                f"a student of {blocks} blocks cannot align with {count} transforms: give it"
                f" num_blocks={count + 1}, or set alignment to 0"
            )
        like = student.base.anchor
        sizes = student.description.model_dim, student.base.shape[1]
        return [nn.Linear(*sizes, dtype=like.dtype, device=like.device) for _ in range(count)]


def normalized(x: Examples) -> Examples:
    """Each example, divided by the root of the mean of its squares."""
    size = x.square().flatten(1).mean(dim=1).add(1e-6).sqrt()
    return x / size.view(-1, *(1,) * (x.ndim - 1))


def _check_pairs(pairs: PriorPairs, noise_level: float | None) -> None:
    """Refuse pairs of another noise."""
    check_instance("pairs", pairs, PriorPairs, "pass PriorPairs(), or None")
    if noise_level is not None:
        raise ConfigurationError(
            f"noise_level {noise_level} with prior pairs: those are drawn at the level at which"
            " the teacher is sampled. Leave one of them out"
        )
