"""What a student minimizes: the contract of all ways to distil a flow."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_real
from tarflow.data.images import ImageData
from tarflow.data.loading.batches import Batch
from tarflow.errors import ConfigurationError
from tarflow.flows.conditioning import null_context, with_dropout
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples
from tarflow.randomness import RandomSource
from tarflow.registry import Part
from tarflow.students.student import Student
from tarflow.training.distillation.clean import Clean
from tarflow.training.distillation.guidance_weights import GuidanceWeights, Unguided
from tarflow.training.distillation.image_distances import Distance
from tarflow.training.distillation.unlearned import Unlearned, frozen
from tarflow.training.objective import Loss


class StudentObjective(nn.Module, Part, ABC):
    """Tells a loss for every example of a batch, by which a student learns.

    What it learns beside the student, and all that a resumed run has to know, are its own
    parameters and buffers. The teacher is neither: a frozen copy that moves with it.

    An example whose teacher's values are not finite is left out: its loss is 0, and the others
    count as much more. `left_out` in the logs is the share of such examples.

    Args:
        student: The student.
        teacher: The flow that it learns from; None for what needs none.
        class_dropout: Probability of dropping an example's label, so that the student learns the
            null prediction as well.
        weights: The guidance weights that the student learns.

    Attributes:
        name: What the loss per dimension is called in logs, after `train/` and `val/`.
        learns_in_turns: Whether some of its parameters, or of the student's, have no gradient in
            some steps.
    """

    name: str = "loss"
    learns_in_turns: ClassVar[bool] = False

    def __init__(
        self,
        student: Student,
        teacher: Flow | None,
        *,
        class_dropout: float = 0.1,
        weights: GuidanceWeights = Unguided(),
    ):
        super().__init__()
        check_instance("student", student, Student, "pass the model that learns")
        check_instance("weights", weights, GuidanceWeights, "pass one, such as UniformWeights(2)")
        self.class_dropout = _probability("class_dropout", class_dropout)
        self.weights = weights
        self._check_guidance(student)
        if student.codec is None:
            raise ConfigurationError("the student does not know its data: pass it a codec")
        if teacher is not None:
            _check_teacher(student, teacher)
        self.unlearned = Unlearned(nn.Identity() if teacher is None else frozen(teacher))
        self.has_teacher = teacher is not None

    @property
    def teacher(self) -> Flow:
        """The flow that the student learns from.

        Raises:
            ConfigurationError: There is none.
        """
        if not self.has_teacher:
            raise ConfigurationError(f"{type(self).__name__} learns from a flow: pass a teacher")
        return self.unlearned.module

    @property
    def distances(self) -> tuple[Distance, ...]:
        """The distances that it measures."""
        return tuple(part for part in self.modules() if isinstance(part, Distance))

    def prepare(self, data: ImageData) -> None:
        """Let its distances learn what they need from the training part, before training."""
        for distance in self.distances:
            distance.fit(data)

    def go_on(self, steps: int, parts: int) -> None:
        """Be told, before training, how far it is.

        Args:
            steps: Number of steps of the optimizer that were taken before.
            parts: Number of batches of which a step is made from now on.
        """

    @abstractmethod
    def forward(self, student: Student, batch: Batch, source: RandomSource) -> Loss:
        """The loss of a batch as it was read; all draws come from the source."""

    @abstractmethod
    def validate(
        self, student: Student, batch: Batch, source: RandomSource
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        """What is logged of every example of the validation part, by name; NaN is left out."""

    def read(self, student: Student, batch: Batch, source: RandomSource) -> Clean:
        """A batch as training takes it: with labels dropped, and guidance weights drawn.

        In eval mode no label is dropped, and nothing is guided.
        """
        x, context = self.encoded(student, batch, source)
        if not self.training:
            return Clean(x, context, x.new_zeros(len(x)))
        context = with_dropout(context, student.conditioners, self.class_dropout, source)
        return Clean(x, context, self.weights(x, source))

    def encoded(
        self, student: Student, batch: Batch, source: RandomSource
    ) -> tuple[Examples, Context]:
        """The data in the student's units, and the parts of its context that the student knows."""
        assert student.codec is not None
        dtype = torch.promote_types(student.base.anchor.dtype, torch.float32)
        x = student.codec.encode(batch.x, source, dtype)
        given = Context.of(batch.context, len(x), x.device)
        known = {c.part: given.get(c.part) for c in student.conditioners}
        return x, student.read_context(Context(**known), x)

    def is_guided(self) -> bool:
        """Whether guidance weights other than 0 are drawn now."""
        return self.training and self.weights.highest > 0

    def _check_guidance(self, student: Student) -> None:
        """Refuse guidance where there is no null prediction to guide away from."""
        if self.weights.highest == 0:
            return
        if not student.num_classes:
            raise ConfigurationError(
                f"weights {self.weights}: a student without classes has no null prediction to"
                " guide away from: pass Unguided()"
            )
        if self.class_dropout == 0:
            raise ConfigurationError(
                f"weights {self.weights} with class_dropout 0: no null prediction is learned to"
                " guide away from. Set class_dropout to 0.1, say, or pass Unguided()"
            )


def nulled(student: Student, clean: Clean) -> Context:
    """What the null prediction of a student is conditioned on."""
    null = null_context(student.conditioners, clean.x, clean.context)
    return clean.context.updated(**null.parts)


def not_negative(name: str, value: float) -> float:
    """Read a number that is finite and not negative, or raise a `ConfigurationError`."""
    value = float(check_real(name, value))
    if not 0 <= value < math.inf:
        raise ConfigurationError(f"{name} {value} must be finite and not negative: 0 is none")
    return value


def _probability(name: str, value: float) -> float:
    """Read a probability, or raise a `ConfigurationError`."""
    value = float(check_real(name, value))
    if not 0 <= value <= 1:
        raise ConfigurationError(f"{name} {value} must be in [0, 1]")
    return value


def _check_teacher(student: Student, teacher: Flow) -> None:
    """Refuse a teacher of other data."""
    check_instance("teacher", teacher, Flow, "pass a trained flow, such as tarflow.load(folder)")
    for name in ("image_shape", "codec", "num_classes"):
        own, other = getattr(student, name), getattr(teacher, name)
        if own != other:
            raise ConfigurationError(
                f"the student's {name} is {own}, but the teacher's is {other}: make the student"
                " for the same data"
            )
    if teacher.noise is None:
        raise ConfigurationError("the teacher does not know its noise: pass it one, or NoNoise()")
