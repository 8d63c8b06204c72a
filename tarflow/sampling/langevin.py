"""Metropolis-adjusted Langevin steps, which leave a density invariant."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource, normal, uniform

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

    def times(self, factor: float) -> "LangevinState":
        """The same with a factor before the logarithms of densities."""
        return LangevinState(self.x, factor * self.log_density, factor * self.gradient)

    def stepped(
        self, density: LogDensity, scale: Tensor, source: RandomSource
    ) -> tuple["LangevinState", Bool[Tensor, " batch"]]:
        r"""Propose $x' = x + \frac{s^2}{2} \nabla \log p(x) + s \epsilon$, and accept it or not.

        A proposal of density 0, or whose gradient is not finite, is rejected.

        Args:
            density: The logarithm of the density p.
            scale: The scale s: one number, or one for each number of an example.
            source: Where draws come from.

        Returns:
            The next state, and which proposals were accepted.
        """
        like = source, self.x.dtype, self.x.device
        drift = scale**2 / 2
        noise = normal(self.x.shape, *like, "proposal")
        other = LangevinState.at(density, self.x + drift * self.gradient + scale * noise)
        back = (self.x - other.x - drift * other.gradient) / scale
        ratio = other.log_density - self.log_density + (_half_square(noise) - _half_square(back))
        accepted = uniform(ratio.shape, *like, "acceptance").log() < ratio
        return self._replaced(accepted, other), accepted

    def _replaced(self, rows: Bool[Tensor, " batch"], other: "LangevinState") -> "LangevinState":
        """Another state in some rows."""
        each = rows.view(-1, *(1,) * (self.x.ndim - 1))
        return LangevinState(
            other.x.where(each, self.x),
            other.log_density.where(rows, self.log_density),
            other.gradient.where(each, self.gradient),
        )


def adapted(size: float, accepted: Bool[Tensor, " batch"], target: float, rate: float) -> float:
    """The size of the next step: larger where more proposals were accepted than are to be."""
    surplus = float(accepted.double().mean()) - target
    return size * math.exp(rate * surplus)


def _half_square(x: Float[Tensor, "batch ..."]) -> PerExample:
    """Half the sum of squares of each example."""
    return x.square().flatten(1).sum(dim=1) / 2
