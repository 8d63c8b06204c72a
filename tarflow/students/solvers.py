"""Solvers of the equation dx/dt = v(x, t), in even steps from noise to data."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tarflow.flows.shapes import Examples
from tarflow.registry import Part

Velocity = Callable[[Tensor, float], Tensor]
"""The velocity of examples at a time, the same for all of them."""


@dataclass(frozen=True)
class Solver(Part, ABC):
    """Goes one step of time along a velocity."""

    passes: ClassVar[int] = 1
    """How many velocities a step asks for."""

    @abstractmethod
    def step(self, velocity: Velocity, x: Examples, time: float, then: float) -> Examples:
        """The examples at a later or earlier time."""

    def __call__(self, velocity: Velocity, x: Examples, steps: int) -> Examples:
        """The examples at time 0, from those at time 1, in so many even steps."""
        for index in range(steps, 0, -1):
            x = self.step(velocity, x, index / steps, (index - 1) / steps)
        return x


@dataclass(frozen=True)
class Euler(Solver):
    r"""$x_{t'} = x_t + (t' - t) v(x_t, t)$: the error falls as the step."""

    def step(self, velocity: Velocity, x: Examples, time: float, then: float) -> Examples:
        return x + (then - time) * velocity(x, time)


@dataclass(frozen=True)
class Heun(Solver):
    """Euler's step, with the mean of the velocities at both of its ends.

    A step takes two passes, and the error falls as the square of the step.
    """

    passes: ClassVar[int] = 2

    def step(self, velocity: Velocity, x: Examples, time: float, then: float) -> Examples:
        first = velocity(x, time)
        second = velocity(x + (then - time) * first, then)
        return x + (then - time) * (first + second) / 2
