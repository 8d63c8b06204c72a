"""Rules that combine a conditional and a null prediction while sampling."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_instance, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Affine
from tarflow.flows.shapes import PerPosition
from tarflow.registry import Part

Weight = Float[Tensor, "window 1"]
"""The weight of guidance at some positions."""


class Schedule(Part, ABC):
    """How a guidance weight depends on the position that is predicted."""

    @abstractmethod
    def __call__(self, weight: float, position: PerPosition) -> PerPosition:
        """The weight at every position 0 ... T - 1 of a sequence."""


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """The same weight everywhere."""

    def __call__(self, weight: float, position: PerPosition) -> PerPosition:
        return torch.full_like(position, weight)


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    r"""Weight $w i / (T - 1)$ at position i of T: none at first, all of it at the end."""

    def __call__(self, weight: float, position: PerPosition) -> PerPosition:
        return weight * position / max(len(position) - 1, 1)


@dataclass(frozen=True)
class Guidance(Part, ABC):
    """Moves a conditional prediction away from a null prediction.

    The null prediction is that of the same network with the label dropped and attention logits
    divided by `temperature`; flows without classes differ from it by the temperature alone.

    Attributes:
        weight: Strength; 0 is off, and costs nothing.
        temperature: Divisor of the null prediction's attention logits.
    """

    weight: float
    temperature: float = 1.0

    def __post_init__(self):
        # As floats, so that 1 and 1.0 are the same in words, by which plans and samples know them.
        keep(self, weight=float(check_real("guidance weight", self.weight)))
        keep(self, temperature=float(check_real("attention temperature", self.temperature)))
        if not 0 <= self.weight < torch.inf:
            raise ConfigurationError(
                f"guidance weight {self.weight} must be finite and not negative: 0 is off"
            )
        if not 0 < self.temperature < torch.inf:
            raise ConfigurationError(
                f"attention temperature {self.temperature} must be positive and finite"
            )

    def acts_at(self, depth: int) -> bool:
        """Whether the rule acts on a transform, given how many were inverted before it."""
        return self.weight > 0

    def weights(self, position: PerPosition) -> PerPosition:
        """The weight at every position 0 ... T - 1 of a sequence."""
        return torch.full_like(position, self.weight)

    @abstractmethod
    def __call__(self, conditional: Affine, null: Affine, weight: Weight) -> Affine:
        """Combine the predictions for some positions, given the weights there."""


@dataclass(frozen=True)
class LinearGuidance(Guidance):
    r"""Extrapolates linearly: $a_c + w_i (a_c - a_n)$ (TarFlow, arXiv 2412.06329).

    Attributes:
        schedule: How the weight grows over the positions.
        on_log_scale: Whether it acts on the log-scale.
        on_shift: Whether it acts on the shift.
    """

    schedule: Schedule = field(default_factory=ConstantSchedule)
    on_log_scale: bool = True
    on_shift: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_instance("schedule", self.schedule, Schedule, "pass one, such as LinearSchedule()")

    def weights(self, position: PerPosition) -> PerPosition:
        return self.schedule(self.weight, position)

    def __call__(self, conditional: Affine, null: Affine, weight: Weight) -> Affine:
        log_scale, shift = conditional.log_scale, conditional.shift
        if self.on_log_scale:
            log_scale = torch.addcmul(log_scale, weight, log_scale - null.log_scale)
        if self.on_shift:
            shift = torch.addcmul(shift, weight, shift - null.shift)
        return Affine(log_scale, shift)


@dataclass(frozen=True)
class GaussianGuidance(Guidance):
    r"""Follows the score $(1 + w) s_c - w s_n$ of two Gaussians (STARFlow, arXiv 2506.06276).

    With $r = \min(\sigma_c^2 / \sigma_n^2, 1)$ the result is the Gaussian of mean
    $((1 + w) \mu_c - w r \mu_n) / (1 + w - w r)$ and scale $\sigma_c / \sqrt{1 + w - w r}$.
    It acts on the transform nearest the noise alone.
    """

    def acts_at(self, depth: int) -> bool:
        return super().acts_at(depth) and depth == 0

    def __call__(self, conditional: Affine, null: Affine, weight: Weight) -> Affine:
        ratio = torch.exp(2 * (conditional.log_scale - null.log_scale)).clamp(max=1)
        precision = 1 + weight - weight * ratio
        shift = (1 + weight) * conditional.shift - weight * ratio * null.shift
        return Affine(conditional.log_scale - 0.5 * precision.log(), shift / precision)
