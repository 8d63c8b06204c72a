"""Students that follow a velocity from noise to clean images, in any number of steps."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from tarflow.arguments import check_instance
from tarflow.flows.codec import Codec
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.shapes import Examples, PerExample
from tarflow.nn.embedding import ExtentEmbedding, NumberEmbedding
from tarflow.nn.layers import AdaptiveNorm, Layer
from tarflow.nn.norms import Norm
from tarflow.nn.positions import LearnedPositions, Positions
from tarflow.students.solvers import Euler, Solver
from tarflow.students.student import Number, Student
from tarflow.students.student_description import (
    MOST_STEPS,
    VelocityStudentDescription,
    described,
)


class VelocityStudent(Student):
    r"""Learns the velocity $v(x_t, t)$ of $x_t = (1 - t) x + t z$ (arXiv 2210.02747, 2603.09014).

    Samples go from noise, t = 1, to data, t = 0, in even steps of a solver.

    Args:
        image_size: Height and width of the images, or one number for both.
        patch_size: Side of a patch.
        num_channels: Number of channels of the images.
        num_layers: Number of transformer layers.
        model_dim: Width of the transformer.
        head_dim: Width of one attention head; it divides `model_dim`.
        expansion: Width of the MLP's hidden layer, in units of `model_dim`.
        dropout: Probability of dropping attention weights and MLP outputs.
        num_classes: Number of classes; 0 for a student without labels.
        layer: The kind of layer.
        positions: How the transformer knows where a patch stands.
        output_norm: The kind of norm before its last linear layer, if any.
        codec: How stored images became the data, kept with the model.
        class_names: A name for each class, or none; kept with the model.
        steps: Number of steps where none is asked for.
        solver: How a step is made.

    Example:
        >>> from tarflow import VelocityStudent
        >>> student = VelocityStudent(8, 2, num_channels=1, num_layers=1)
        >>> student.sample(5, steps=2).shape
        torch.Size([5, 1, 8, 8])
    """

    description: VelocityStudentDescription
    allowed_steps = range(1, MOST_STEPS + 1)
    solvers: ClassVar[tuple[type[Solver], ...]] = (Solver,)
    """The kinds of solver that fit what is learned."""

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        num_channels: int = 3,
        num_layers: int = 8,
        model_dim: int = 256,
        head_dim: int = 64,
        expansion: int = 4,
        dropout: float = 0.0,
        num_classes: int = 0,
        layer: Layer = AdaptiveNorm(),
        positions: Positions = LearnedPositions(),
        output_norm: Norm | None = None,
        codec: Codec | None = None,
        class_names: Sequence[str] = (),
        steps: int = 4,
        solver: Solver = Euler(),
    ):
        description = described(VelocityStudentDescription, locals())
        for kind in self.solvers:
            check_instance("solver", solver, kind, f"pass {kind.__name__}()")
        super().__init__(description)
        self.solver = solver
        self.time_embedding = NumberEmbedding(description.model_dim)
        self.step_embedding = ExtentEmbedding(description.model_dim)

    @property
    def steps(self) -> int:
        return self.description.steps

    def passes(self, steps: int | None = None) -> int:
        return self.read_steps(steps) * self.solver.passes

    def step_size(self, steps: int) -> float:
        """The step size that the network is told where it takes so many steps."""
        return 0.0

    def velocity(
        self,
        x: Examples,
        time: Number,
        context: ContextLike = None,
        *,
        weight: Number = 0.0,
        step: Number = 0.0,
    ) -> Examples:
        r"""The velocity $dx_t/dt$ of examples, differentiable.

        Args:
            x: Examples at a time.
            time: The time t, from 0, that of data, to 1, that of noise.
            context: Labels, or nothing.
            weight: Weight of the guidance; 0 is none.
            step: Size of the step whose mean velocity it is; 0 for that of the moment.

        Raises:
            ContextError: The context is not one of this student.
            ConfigurationError: One of the others is wrong.
        """
        x, read = self.read_examples("x", x), self.read_context(context, x)
        numbers = {"weight": weight, "time": time, "step": step}
        rows = (self.read_number(name, number, x) for name, number in numbers.items())
        return self._velocity(x, read, *rows)

    def solve(self, z: Examples, context: Context, weight: PerExample, steps: int) -> Examples:
        size = weight.new_full(weight.shape, self.step_size(steps))

        def velocity(x: Tensor, time: float) -> Tensor:
            return self._velocity(x, context, weight, weight.new_full(weight.shape, time), size)

        return self.solver(velocity, z, steps)

    def _velocity(
        self, x: Examples, context: Context, weight: PerExample, time: PerExample, step: PerExample
    ) -> Examples:
        """The velocity, of arguments that have been read."""
        told = self.time_embedding(time), self.step_embedding(step)
        return self.images(
            self.network(self.patches(x), self.condition(context, weight, *told)), x
        )


class ShortcutStudent(VelocityStudent):
    """A velocity student that knows the size of its steps (shortcut models, arXiv 2410.12557).

    Its velocity is the mean over a step, so that steps are those of Euler, and may be few.
    """

    solvers = (Euler,)

    def step_size(self, steps: int) -> float:
        return 1 / steps
