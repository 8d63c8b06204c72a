"""Examples as training takes them, and those that are left out."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from tarflow.flows.context import NULL_CLASS, Context
from tarflow.flows.shapes import Examples, PerExample
from tarflow.training.distillation.together import summed
from tarflow.training.objective import Loss

Kept = Bool[Tensor, " batch"]
"""Which examples count; the others are not finite where the teacher computed them."""


@dataclass(frozen=True)
class Clean:
    """Clean data of a batch, in the student's units.

    Attributes:
        x: The data.
        context: What it is conditioned on; the label is null where it was dropped.
        weight: The guidance weight of each example.
    """

    x: Examples
    context: Context
    weight: PerExample

    @property
    def pull(self) -> PerExample:
        """The weight by which to guide: 0 where the label is null, and guides to itself."""
        label = self.context.label
        if label is None or label.is_floating_point():
            return self.weight
        return self.weight.masked_fill(label == NULL_CLASS, 0)


def finite(*values: Tensor) -> Kept:
    """Which examples are finite in all of some tensors."""
    kept = [value.isfinite().flatten(1).all(dim=1) for value in values]
    return torch.stack(kept).all(dim=0)


def where_kept(kept: Kept, value: Tensor) -> Tensor:
    """The value, and 0 in examples that do not count: neither it nor a gradient spoils others."""
    return torch.where(kept.view(-1, *(1,) * (value.ndim - 1)), value, 0)


def kept_loss(value: PerExample, kept: Kept, clean: Clean, **logged: PerExample) -> Loss:
    """A loss whose mean over the batch of all processes is that over the examples that count."""
    total, count = summed(torch.stack([torch.ones_like(value).sum(), kept.to(value.dtype).sum()]))
    scale = total / count.clamp(min=1)
    left_out = {"left_out": (~kept).to(value.dtype)}
    told = clean.x.detach(), clean.context
    return Loss(where_kept(kept, value) * scale, *told, logged={**logged, **left_out})


def marked(value: PerExample, kept: Kept) -> PerExample:
    """The value, and NaN in examples that do not count: validation counts them apart."""
    return value.where(kept, torch.nan)


def beside(numbers: PerExample, examples: Examples) -> Tensor:
    """A number for each example, in a shape that multiplies examples."""
    return numbers.view(-1, *(1,) * (examples.ndim - 1))
