"""How the gradients of score distillation are brought to one size."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from tarflow.flows.shapes import Examples, PerExample
from tarflow.registry import Part
from tarflow.training.distillation.clean import Kept
from tarflow.training.distillation.together import summed

LEAST = 1e-6
"""What sizes are at least, where they divide."""


class GradientScale(Part, ABC):
    """Weights examples, and scales the gradient at their samples."""

    @abstractmethod
    def weights(self, x: Examples, mean: Examples) -> PerExample:
        """The weight of each example, by its sample and the teacher's mean for it."""

    @abstractmethod
    def scaled(self, gradient: Examples, kept: Kept) -> Examples:
        """The gradient of a batch; it is 0 where examples do not count."""


@dataclass(frozen=True)
class ByDistance(GradientScale):
    r"""$w = 1 / \mathrm{mean} |x - D^*|$ for each example (arXiv 2311.18828, 2404.04057)."""

    def weights(self, x: Examples, mean: Examples) -> PerExample:
        return 1 / (x - mean).abs().flatten(1).mean(dim=1).clamp(min=LEAST)

    def scaled(self, gradient: Examples, kept: Kept) -> Examples:
        return gradient


@dataclass(frozen=True)
class ByMeanSize(GradientScale):
    """All examples weigh the same, and the batch's gradient is divided by its mean size.

    What an example gets depends on its batch: in parts of a batch, on the part that it is in.
    """

    def weights(self, x: Examples, mean: Examples) -> PerExample:
        return x.new_ones(len(x))

    def scaled(self, gradient: Examples, kept: Kept) -> Examples:
        sizes = gradient.abs().flatten(1).mean(dim=1)
        total, count = summed(torch.stack([sizes.sum(), kept.sum().to(sizes.dtype)]))
        return gradient / (total / count.clamp(min=1)).clamp(min=LEAST)


@dataclass(frozen=True)
class AsIs(GradientScale):
    """Nothing is scaled."""

    def weights(self, x: Examples, mean: Examples) -> PerExample:
        return x.new_ones(len(x))

    def scaled(self, gradient: Examples, kept: Kept) -> Examples:
        return gradient
