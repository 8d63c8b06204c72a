"""What the benchmark of training trains, and the ways of the package to train it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.precision import Precision
from benchmarks.results import Key
from tarflow import GaussianNoise, Pixels, TarFlow
from tarflow.data import ArrayDataset

NUM_CLASSES = 10


@dataclass(frozen=True)
class Model:
    """The flow that is trained.

    Attributes:
        image_size: Height and width of its images, which have three channels.
        patch_size: Side of a patch.
        num_transforms: Number of autoregressive transforms.
        num_layers: Number of layers in each.
        model_dim: Width of the transformers.
    """

    image_size: int
    patch_size: int
    num_transforms: int
    num_layers: int
    model_dim: int

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the transformers, as `TarFlow` takes them."""
        names = ("num_transforms", "num_layers", "model_dim")
        return {name: getattr(self, name) for name in names}

    @property
    def length(self) -> int:
        """Number of patches."""
        return (self.image_size // self.patch_size) ** 2

    def make(self) -> TarFlow:
        """The flow, with fresh weights."""
        torch.manual_seed(0)
        known: Any = {"codec": Pixels(), "noise": GaussianNoise(0.05)}
        sizes = {**self.sizes, "num_classes": NUM_CLASSES}
        return TarFlow(self.image_size, self.patch_size, **sizes, **known)

    def images(self, num_images: int) -> ArrayDataset:
        """Images of noise, in memory: how long a step takes does not depend on them."""
        shape = (num_images, 3, self.image_size, self.image_size)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return ArrayDataset(pixels, torch.arange(num_images) % NUM_CLASSES)


MODES: dict[str, Callable[[Model], dict[str, Any]]] = {
    "tarflow": lambda model: {},
    "compiled": lambda model: {"compile": True},
    "checkpointed": lambda model: {"checkpointed_layers": model.num_layers},
}
"""For each way of the package, the arguments of `FlowModule` that differ from its defaults."""


@dataclass(frozen=True)
class Case:
    """What is trained, and for how long: one group of measurements.

    Attributes:
        model: The flow.
        batch_size: Number of images in a step.
        precisions: In which transformers compute.
        repeats: Number of blocks of steps of each mode.
        steps: Number of steps in a block that count.
        warmup: Number of steps before them that do not.
    """

    model: Model
    batch_size: int
    precisions: tuple[Precision, ...]
    repeats: int
    steps: int
    warmup: int = 2

    def __str__(self) -> str:
        return f"T = {self.model.length}, batch {self.batch_size}"

    @property
    def keys(self) -> list[Key]:
        """The cases that results know."""
        return [(self.model.length, self.batch_size, each.name) for each in self.precisions]
