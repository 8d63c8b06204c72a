"""Learned inverses: noise to clean images in one pass."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tarflow.flows.codec import Codec
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.nn.layers import AdaptiveNorm, Layer
from tarflow.nn.norms import Norm
from tarflow.nn.positions import LearnedPositions, Positions
from tarflow.students.student import Number, Student
from tarflow.students.student_description import InverseStudentDescription, described

Hidden = Float[Tensor, "batch length model_dim"]
"""What a block hands to the next."""


class InverseStudent(Student):
    """A learned inverse of a flow: a bidirectional transformer of blocks (arXiv 2512.10953).

    It has a block for each of the flow's transforms, and one more, which ends at the clean image.

    Args:
        image_size: Height and width of the images, or one number for both.
        patch_size: Side of a patch.
        num_channels: Number of channels of the images.
        num_blocks: Number of blocks.
        num_layers: Number of transformer layers of a block.
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

    Example:
        >>> from tarflow import InverseStudent
        >>> student = InverseStudent(8, 2, num_channels=1, num_blocks=3, num_layers=1)
        >>> student.sample(5, weight=1.0).shape
        torch.Size([5, 1, 8, 8])
    """

    description: InverseStudentDescription
    allowed_steps = range(1, 2)

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        num_channels: int = 3,
        num_blocks: int = 9,
        num_layers: int = 2,
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
    ):
        super().__init__(described(InverseStudentDescription, locals()))

    @classmethod
    def told_by(cls, flow: Flow) -> dict[str, Any]:
        return super().told_by(flow) | {"num_blocks": flow.transform.num_decoded + 1}

    @property
    def steps(self) -> int:
        return 1

    def passes(self, steps: int | None = None) -> int:
        return self.read_steps(steps)

    def solve(self, z: Examples, context: Context, weight: PerExample, steps: int) -> Examples:
        condition = self.condition(context, weight)
        return self.images(self.network(self.patches(z), condition), z)

    def states(
        self, z: Examples, context: ContextLike = None, *, weight: Number = 0.0
    ) -> tuple[Examples, list[Hidden]]:
        """The clean images that `generate` gives, and what each block hands to the next."""
        z = self.read_examples("z", z)
        read, weight = self.read_context(context, z), self.read_number("weight", weight, z)
        hidden: list[Hidden] = []
        patches = self.network(self.patches(z), self.condition(read, weight), kept=hidden)
        layers = self.description.num_layers
        return self.images(patches, z), hidden[layers - 1 :: layers]
