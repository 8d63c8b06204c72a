"""The contract of students: noise in the shape of images becomes clean images."""

import math
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor

from tarflow.arguments import check_integer, check_real, check_tensor
from tarflow.errors import ConfigurationError
from tarflow.flows.base import StandardNormal
from tarflow.flows.conditioned import Conditioned
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.pretrained import Pretrained
from tarflow.flows.shapes import Examples, PerExample, Sequences
from tarflow.flows.transforms import Patchify, Repatch
from tarflow.nn.embedding import ExtentEmbedding
from tarflow.nn.transformer import Condition
from tarflow.randomness import RandomSource
from tarflow.students.student_description import StudentDescription

Made = TypeVar("Made", bound="Student")

Number = float | int | Tensor
"""A number for all examples, or one for each."""


class Student(Conditioned, Pretrained, ABC):
    """Maps noise of variance 1 in the shape of images to clean images, in one pass or a few.

    Images are in the units of `codec.encode`, with no noise to be removed. Networks read the
    noise in patches in raster order, as `tarflow.students.placement.placed` makes images of it.

    Args:
        description: What the student is made from.

    Attributes:
        image_shape: Channels, height and width of an image.
        num_dims: Number of dimensions of an image.
        patchify: Cuts images into the patches that the network reads.
        base: The distribution of the noise, in these patches.
        codec: How stored images become the data; None where that is not known.
        noise: None: samples are clean.
        network: The transformer.
    """

    description: StudentDescription
    allowed_steps: range
    """Numbers of steps that a student may take."""

    def __init__(self, description: StudentDescription):
        super().__init__()
        self.description = description
        self.kind = type(self)  # which FSDP changes
        self.patchify = description.patchify()
        height, width = self.patchify.image_size
        self.image_shape = (description.num_channels, height, width)
        self.num_dims = math.prod(self.image_shape)
        patch_dim = self.num_dims // self.patchify.length
        self.base = StandardNormal(self.patchify.length, patch_dim)
        self.codec = None if description.codec is None else description.codec.held()
        self.noise = None
        self.network = description.network(self.patchify)
        self.conditioners = description.conditioners
        for conditioner in self.conditioners:
            module = conditioner.module(description.model_dim)
            self.add_module(f"{conditioner.part}_embedding", module)
        self.weight_embedding = ExtentEmbedding(description.model_dim)

    @classmethod
    def of(cls: type[Made], flow: Flow, **options: Any) -> Made:
        """Make a student for the images, classes and patches of a flow.

        Args:
            flow: The flow.
            **options: Arguments of the student's class, which come before what the flow tells.

        Raises:
            ConfigurationError: The flow is not one of images.
        """
        return cls(**(cls.told_by(flow) | options))

    @classmethod
    def told_by(cls, flow: Flow) -> dict[str, Any]:
        """The arguments of a student that a flow tells."""
        cuts = [part for part in flow.transform if isinstance(part, Patchify | Repatch)]
        if flow.image_shape is None or not cuts:
            raise ConfigurationError(
                "the flow does not know the shape of its images, or cuts none into patches: make"
                " the student by its own arguments"
            )
        last = cuts[-1].after if isinstance(cuts[-1], Repatch) else cuts[-1]
        told = {"num_classes": flow.num_classes, "class_names": flow.class_names}
        sizes = {"num_channels": flow.image_shape[0], "image_size": flow.image_shape[1:]}
        return {**sizes, "patch_size": last.patch_size, "codec": flow.codec, **told}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, where names are kept with the model; else none."""
        return tuple(self.description.class_names)

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps where none is asked for."""

    @abstractmethod
    def passes(self, steps: int | None = None) -> int:
        """Number of passes of the network that a sample takes."""

    def read_steps(self, steps: int | None) -> int:
        """A number of steps, or that of the student.

        Raises:
            ConfigurationError: The student does not take so many.
        """
        if steps is None:
            return self.steps
        steps = check_integer("steps", steps, least=1)
        if steps not in self.allowed_steps:
            raise ConfigurationError(
                f"steps {steps}: {type(self).__name__} takes at most {self.allowed_steps[-1]}"
            )
        return steps

    def generate(
        self,
        z: Examples,
        context: ContextLike = None,
        *,
        weight: Number = 0.0,
        steps: int | None = None,
    ) -> Examples:
        """Map noise to clean images; differentiable.

        Args:
            z: Noise of variance 1, in the shape of images.
            context: Labels, or nothing.
            weight: Weight of the guidance, a condition of the network; 0 is none.
            steps: Number of steps; by default that of the student.

        Raises:
            ContextError: The context is not one of this student.
            ConfigurationError: The noise, the weight or the number of steps is wrong.
        """
        z = self.read_examples("z", z)
        read, steps = self.read_context(context, z), self.read_steps(steps)
        return self.solve(z, read, self.read_number("weight", weight, z), steps)

    @abstractmethod
    def solve(self, z: Examples, context: Context, weight: PerExample, steps: int) -> Examples:
        """What `generate` does, of arguments that have been read."""

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        context: ContextLike = None,
        *,
        weight: Number = 0.0,
        steps: int | None = None,
        source: RandomSource = None,
    ) -> Examples:
        """Draw clean images, without gradients; arguments as in `generate`.

        Args:
            num_samples: Number of samples.
            context: What to condition on: one row per sample, or one label for all.
            weight: Weight of the guidance.
            steps: Number of steps.
            source: A generator, or `ExampleSeeds` for samples that do not depend on their batch.
        """
        z = self.draw_noise(num_samples, source)
        return self.generate(z, self._read(context, z), weight=weight, steps=steps)

    def draw_noise(self, num_samples: int, source: RandomSource = None) -> Examples:
        """Draw noise, in the shape of images.

        It is that of a flow with patches of the same size, for the same source.
        """
        return self.patchify.restore(self.base.sample(num_samples, source))

    def read_examples(self, name: str, value: Any) -> Examples:
        """Noise or images of this student, in float32 at least.

        Raises:
            ConfigurationError: They are something else, or on another device.
        """
        check_tensor(name, value, self.image_shape, self.base.anchor.device)
        return value.to(torch.promote_types(value.dtype, torch.float32))

    def read_number(self, name: str, value: Number, examples: Tensor) -> PerExample:
        """A number for each example, on their device, in float32 at least.

        Raises:
            ConfigurationError: It is something else, or not finite.
        """
        dtype = torch.promote_types(examples.dtype, torch.float32)
        if not isinstance(value, Tensor) or value.ndim == 0:
            number = check_real(name, value)
            if not math.isfinite(number):
                raise ConfigurationError(f"{name} {number} must be finite")
            return torch.full(examples.shape[:1], number, dtype=dtype, device=examples.device)
        if value.shape != examples.shape[:1] or value.dtype == torch.bool:
            raise ConfigurationError(
                f"{name} of shape {tuple(value.shape)} and {value.dtype}: give a number, or one"
                f" for each of the {len(examples)} examples"
            )
        return value.to(examples.device, dtype)

    def condition(self, context: Context, weight: PerExample, *others: Tensor) -> Condition:
        """What the network is conditioned on: labels, the weight, and other embedded numbers."""
        vectors = [self.weight_embedding(weight), *others]
        for conditioner in self.conditioners:
            rows = context.get(conditioner.part)
            rows = conditioner.null(weight) if rows is None else rows
            vectors.append(self.get_submodule(f"{conditioner.part}_embedding")(rows))
        return self.network.conditioned(sum(vectors[1:], start=vectors[0]))

    def patches(self, images: Examples) -> Sequences:
        """Images as the network reads them."""
        return self.patchify.arrange(images)

    def images(self, patches: Sequences, like: Tensor) -> Examples:
        """What the network puts out, as images of the dtype of others."""
        return self.patchify.restore(patches).to(like.dtype)
