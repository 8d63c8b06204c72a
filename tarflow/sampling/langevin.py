"""Metropolis-adjusted Langevin steps, which leave a density invariant."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import normal, uniform

LogDensity = Callable[[Tensor], Tensor]
"""Maps examples to logarithms of a density, each of its own example, but for a constant."""


@dataclass(frozen=True)
class LangevinState:
    """Where chains are, one in each row.

    Attributes:
        x: The examples.
        log_density: Logarithms of their density, in nats, but for a constant.
        gradient: The gradients of these.
    """

    x: Examples
    log_density: PerExample
    gradient: Examples

    @classmethod
    def at(cls, density: LogDensity, x: Examples) -> "LangevinState":
        """The state of chains at some examples."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_density = density(x)
            [gradient] = torch.autograd.grad(log_density.sum(), x)
        return cls(x.detach(), log_density.detach(), gradient)

    def stepped(
        self, density: LogDensity, scale: Tensor, source: torch.Generator | None
    ) -> tuple["LangevinState", Bool[Tensor, " batch"]]:
        r"""Propose $x' = x + s \, (d(x) + \epsilon)$, and accept it or not.

        The drift d is $\frac{s}{2} \nabla \log p$, but never longer than noise is on average
        (truncated as in Roberts and Tweedie 1996): then chains come down from where the density is
        steep. A proposal of density 0, or whose gradient is not finite, is rejected.

        Args:
            density: The logarithm of the density p.
            scale: The scale s, in a shape that broadcasts against examples.
            source: Where draws come from.

        Returns:
            The next state, and which proposals were accepted.
        """
        like = source, self.x.dtype, self.x.device
        noise = normal(self.x.shape, *like, "proposal")
        there = LangevinState.at(density, self.x + scale * (self._drift(scale) + noise))
        back = (self.x - there.x) / scale - there._drift(scale)
        ratio = there.log_density - self.log_density + _half_square(noise) - _half_square(back)
        accepted = uniform(ratio.shape, *like, "acceptance").log() < ratio
        return self.replaced(accepted, there), accepted

    def _drift(self, scale: Tensor) -> Examples:
        """Where proposals go on average, in units of the scale."""
        drift = scale * self.gradient / 2
        length = (2 * _half_square(drift)).sqrt() / math.sqrt(drift[0].numel())
        return drift / per_row(length, drift).clamp(min=1)

    def replaced(self, rows: Bool[Tensor, " batch"], other: "LangevinState") -> "LangevinState":
        """Another state in some rows."""
        each = per_row(rows, self.x)
        return LangevinState(
            other.x.where(each, self.x),
            other.log_density.where(rows, self.log_density),
            other.gradient.where(each, self.gradient),
        )


def adapted(
    size: Tensor, accepted: Bool[Tensor, "*sizes chains"], target: float, rate: float
) -> Tensor:
    """Sizes of next steps: larger where more proposals were accepted than are to be."""
    surplus = accepted.to(size.dtype).mean(dim=-1) - target
    return size * (rate * surplus).exp()


def per_row(values: Shaped[Tensor, " batch"], examples: Examples) -> Tensor:
    """A value for each example, in a shape that broadcasts against these."""
    return values.view(-1, *(1,) * (examples.ndim - 1))


def _half_square(x: Float[Tensor, "batch ..."]) -> PerExample:
    """Half the sum of squares of each example."""
    return x.square().flatten(1).sum(dim=1) / 2
