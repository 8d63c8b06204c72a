"""Base distributions: what the noise z is distributed as."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tarflow.arguments import check_integer
from tarflow.flows.shapes import PerExample, Sequences
from tarflow.randomness import RandomSource, normal

LOG_2_PI = math.log(2 * math.pi)

Mask = Bool[Tensor, "batch length"]
"""Which positions are there."""


def _summed(numbers: Float[Tensor, "#batch length patch_dim"], mask: Mask | None) -> PerExample:
    """The sum over all that is there."""
    there = numbers if mask is None else torch.where(mask[..., None], numbers, 0.0)
    return there.sum(dim=(1, 2))


class StandardNormal(nn.Module):
    """Independent normal numbers of mean 0 and variance 1, for sequences of vectors."""

    anchor: Tensor

    def __init__(self, length: int, patch_dim: int):
        super().__init__()
        length = check_integer("length", length, least=1)
        self.shape = (length, check_integer("patch_dim", patch_dim, least=1))
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # tells device and dtype

    def log_prob(self, z: Sequences, mask: Mask | None = None) -> PerExample:
        """Log-density of each example, in nats, summed over all dimensions that are there."""
        return -0.5 * _summed(z.square() + LOG_2_PI, mask)

    def standardized(self, z: Sequences) -> Sequences:
        """Noise of variance 1, of noise of this distribution."""
        return z

    def scaled(self, unit: Sequences) -> Sequences:
        """Noise of this distribution, of noise of variance 1."""
        return unit

    def moment(
        self, z: Sequences, mask: Mask | None = None
    ) -> Float[Tensor, "length patch_dim"] | None:
        """What `update` takes of a training batch; None for a base that learns nothing."""
        return None

    def update(self, moment: Float[Tensor, "length patch_dim"]) -> None:
        """Learn from the moment of a training batch, once for each step."""

    def sample(self, num_samples: int, source: RandomSource = None) -> Sequences:
        """Draw samples, on this module's device."""
        dtype = torch.promote_types(self.anchor.dtype, torch.float32)
        check_integer("num_samples", num_samples, least=0)
        shape = num_samples, *self.shape
        return self.scaled(normal(shape, source, dtype, self.anchor.device, "base"))


class DiagonalNormal(StandardNormal):
    """Independent normal numbers of mean 0 and a variance learned for each dimension.

    The variance follows the second moment of z over training batches as an exponential moving
    average: the base of the volume-preserving flow, which cannot scale by itself. The `rate` is
    the weight of a new batch in it.
    """

    variance: Float[Tensor, "length patch_dim"]

    def __init__(self, length: int, patch_dim: int, rate: float = 0.1):
        super().__init__(length, patch_dim)
        self.rate = rate
        self.register_buffer("variance", torch.ones(length, patch_dim))

    def log_prob(self, z: Sequences, mask: Mask | None = None) -> PerExample:
        log_variance = self.variance.log()
        lost = log_variance.sum() if mask is None else _summed(log_variance[None], mask)
        return super().log_prob(self.standardized(z), mask) - 0.5 * lost

    def standardized(self, z: Sequences) -> Sequences:
        return z / self.variance.sqrt()

    def scaled(self, unit: Sequences) -> Sequences:
        return unit * self.variance.sqrt()

    def moment(self, z: Sequences, mask: Mask | None = None) -> Tensor:
        if mask is None:
            return z.detach().square().mean(dim=0)
        count = mask.sum(dim=0)[:, None]
        mean = z.detach().square().where(mask[..., None], 0.0).sum(dim=0) / count.clamp(min=1)
        return mean.where(count > 0, self.variance.to(mean.dtype))

    @torch.no_grad()
    def update(self, moment: Float[Tensor, "length patch_dim"]) -> None:
        """Move the variance towards the second moment of z in a training batch."""
        self.variance.lerp_(moment.to(self.variance.dtype), self.rate)
