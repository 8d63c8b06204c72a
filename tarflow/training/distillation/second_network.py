"""The second network of score distillation, which denoises the student's samples."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tarflow.arguments import check_integer, keep
from tarflow.flows.context import Context
from tarflow.flows.shapes import Examples, PerExample
from tarflow.registry import Part
from tarflow.students.student import Student
from tarflow.students.velocity_student import VelocityStudent
from tarflow.training.distillation.clean import beside


@dataclass(frozen=True)
class SecondNetwork(Part):
    """Describes the second network: a bidirectional transformer.

    Attributes:
        num_layers: Number of layers.
        model_dim: Width.
        head_dim: Width of one attention head.
        patch_size: Side of a patch; None: that of the student.
    """

    num_layers: int = 4
    model_dim: int = 128
    head_dim: int = 64
    patch_size: int | None = None

    def __post_init__(self):
        for name in ("num_layers", "model_dim", "head_dim"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})

    def __call__(self, student: Student) -> "SampleDenoiser":
        """Make the network for the samples of a student."""
        channels, *size = student.image_shape
        made = VelocityStudent(
            tuple(size),  # pyright: ignore[reportArgumentType]
            self.patch_size or student.patchify.patch_size,
            num_channels=channels,
            num_layers=self.num_layers,
            model_dim=self.model_dim,
            head_dim=self.head_dim,
            num_classes=student.num_classes,
        )
        return SampleDenoiser(made.to(student.base.anchor))


class SampleDenoiser(nn.Module):
    r"""The mean of the student's clean samples, given noisy ones: $x + t f(x, t)$.

    The network f tells the negative noise, which is of variance 1 at every level t; a fresh one is
    zero.
    """

    def __init__(self, network: VelocityStudent):
        super().__init__()
        self.network = network

    def forward(
        self, x: Examples, level: PerExample, context: Context, weight: PerExample
    ) -> Examples:
        """The mean for noisy samples, conditioned as the student was."""
        noise = self.network.velocity(x, level, context, weight=weight)
        return x + beside(level, x) * noise


def unmoved(
    network: nn.Module, x: Examples, level: PerExample, context: Context, weight: PerExample
) -> Examples:
    """What a denoiser tells, without gradients of its weights."""
    weights = {name: value.detach() for name, value in network.named_parameters()}
    told: Tensor = torch.func.functional_call(network, weights, (x, level, context, weight))
    return told
