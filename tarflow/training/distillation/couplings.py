"""Which noise belongs to which data: couplings, on which flow matching trains."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from tarflow.arguments import check_integer
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples
from tarflow.randomness import RandomSource, normal
from tarflow.registry import Part
from tarflow.students.placement import placed
from tarflow.training.distillation.clean import Clean, finite
from tarflow.training.distillation.teaching import noisy, sampled_noise
from tarflow.training.distillation.together import summed


class Coupling(nn.Module, Part, ABC):
    """Gives every example its noise, in the shape of images."""

    needs_teacher: bool = True

    @abstractmethod
    def forward(self, teacher: Flow | None, clean: Clean, source: RandomSource) -> Examples:
        """The noise of clean data; without gradients, and perhaps not finite."""


class IndependentCoupling(Coupling):
    """Standard normal noise, whatever the data: plain flow matching, without a flow."""

    needs_teacher = False

    def forward(self, teacher: Flow | None, clean: Clean, source: RandomSource) -> Examples:
        x = clean.x
        return normal(x.shape, source, x.dtype, x.device, "prior")


class FlowCoupling(Coupling):
    r"""The noise that a flow makes of noisy data: $z = F(x + \epsilon) / \sigma_F$.

    It is a function of the data and nearly straight, so that few steps suffice
    (arXiv 2603.09014). $\sigma_F^2$ is the mean square of F's noise, measured over the first
    batches of training, and fixed after them.

    Args:
        batches: Number of batches to measure.
    """

    mean_square: Tensor
    measured: Tensor

    def __init__(self, batches: int = 100):
        super().__init__()
        self.batches = check_integer("batches", batches, least=1)
        self.register_buffer("mean_square", torch.ones(()))
        self.register_buffer("measured", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, teacher: Flow | None, clean: Clean, source: RandomSource) -> Examples:
        assert teacher is not None
        x, context = noisy(teacher, clean, sampled_noise(teacher), source)
        z = placed(teacher, teacher(x, context)[0])
        if self.training:
            self.measure(z)
        return z / self.mean_square.sqrt().to(z.dtype)

    def measure(self, z: Examples) -> None:
        """Take a batch into the mean square, unless enough were taken."""
        kept = finite(z)
        squares = torch.where(kept, z.square().flatten(1).mean(dim=1), 0)
        total, count = summed(torch.stack([squares.sum(), kept.sum().to(squares.dtype)]))
        mean = (total / count.clamp(min=1)).to(self.mean_square.dtype)
        taken = (count > 0) & (self.measured < self.batches)
        self.measured += taken
        share = taken / self.measured.clamp(min=1)  # of this batch in the mean
        self.mean_square.lerp_(mean, share.to(mean.dtype))
