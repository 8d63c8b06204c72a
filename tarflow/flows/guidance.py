"""Rules that combine a conditional and a null prediction while sampling."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_instance, check_integer, check_real, keep, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Affine, SignedAffine
from tarflow.flows.shapes import PerPosition
from tarflow.registry import Part

Weight = Float[Tensor, "*batch window 1"]
"""The weight of guidance at some positions, the same in all examples or not."""


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


LATER = {"later": True}
"""Marks fields that rules of earlier releases did not have."""


@dataclass(frozen=True, repr=False)
class Guidance(Part, ABC):
    """Moves a conditional prediction away from a null prediction.

    The null prediction is that of the same network with the label dropped and attention logits
    divided by `temperature`; flows without classes differ from it by the temperature alone.

    Attributes:
        weight: Strength; 0 is off, and costs nothing.
        temperature: Divisor of the null prediction's attention logits.
        schedule: How the weight depends on the position.
        depths: On which autoregressive transforms it acts, counted from the noise: 0 is that
            which is inverted first. None: on all. Where it does not act, nothing is computed.
    """

    weight: float
    temperature: float = 1.0
    schedule: Schedule = field(default=ConstantSchedule(), kw_only=True, metadata=LATER)
    depths: Sequence[int] | None = field(default=None, kw_only=True, metadata=LATER)

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
        check_instance("schedule", self.schedule, Schedule, "pass one, such as LinearSchedule()")
        keep(self, depths=_read_depths(self.depths))

    def __repr__(self) -> str:
        """The rule in words; what came later is shown where it is not the default.

        Plans and samples are known by it, those of earlier releases too.
        """
        values = ((f, getattr(self, f.name)) for f in fields(self))
        told = (f"{f.name}={v!r}" for f, v in values if not f.metadata or v != f.default)
        return f"{type(self).__name__}({', '.join(told)})"

    def acts_at(self, depth: int) -> bool:
        """Whether the rule acts on a transform, given how many were inverted before it."""
        return self.weight > 0 and (self.depths is None or depth in self.depths)

    def check_depths(self, num_transforms: int) -> None:
        """Refuse to guide a flow of so many autoregressive transforms at a depth that none has.

        Raises:
            ConfigurationError: There is one; names it.
        """
        beyond = [depth for depth in self.depths or () if depth >= num_transforms]
        if beyond:
            raise ConfigurationError(
                f"guidance at depth {beyond[0]}, but the flow has {num_transforms} autoregressive"
                f" transforms: the depths, counted from the noise, are 0 ... {num_transforms - 1}"
            )

    def weights(self, position: PerPosition) -> PerPosition:
        """The weight at every position 0 ... T - 1 of a sequence."""
        return self.schedule(self.weight, position)

    @abstractmethod
    def __call__(self, conditional: Affine, null: Affine, weight: Weight) -> Affine:
        """Combine the predictions for some positions, given the weights there.

        What maps have besides log-scale and shift stays as in the conditional one.
        """


@dataclass(frozen=True, repr=False)
class LinearGuidance(Guidance):
    r"""Extrapolates linearly: $a_c + w_i (a_c - a_n)$ (TarFlow, arXiv 2412.06329).

    Attributes:
        on_log_scale: Whether it acts on the log-scale.
        on_shift: Whether it acts on the shift.
    """

    schedule: Schedule = ConstantSchedule()
    on_log_scale: bool = True
    on_shift: bool = True

    def __post_init__(self):
        super().__post_init__()
        _check_acts(on_log_scale=self.on_log_scale, on_shift=self.on_shift)

    def __call__(self, conditional: Affine, null: Affine, weight: Weight) -> Affine:
        log_scale, shift = conditional.log_scale, conditional.shift
        if self.on_log_scale:
            log_scale = torch.addcmul(log_scale, weight, log_scale - null.log_scale)
        if self.on_shift:
            shift = torch.addcmul(shift, weight, shift - null.shift)
        return replace(conditional, log_scale=log_scale, shift=shift)


@dataclass(frozen=True, repr=False)
class LinearScaleGuidance(Guidance):
    r"""Extrapolates the scale: $s_c + w_i (s_c - s_n)$, $s = e^\alpha$ (arXiv 2604.20041).

    The shift is extrapolated as in `LinearGuidance`. At large weights scales turn negative: the
    map stays a bijection, of log-determinant $-\sum \log |s|$. An example of which a scale is
    exactly zero is not finite.

    Attributes:
        on_scale: Whether it acts on the scale.
        on_shift: Whether it acts on the shift.
    """

    on_scale: bool = True
    on_shift: bool = True

    def __post_init__(self):
        super().__post_init__()
        _check_acts(on_scale=self.on_scale, on_shift=self.on_shift)

    def __call__(self, conditional: Affine, null: Affine, weight: Weight) -> Affine:
        log_scale, shift = conditional.log_scale, conditional.shift
        if self.on_shift:
            shift = torch.addcmul(shift, weight, shift - null.shift)
        if not self.on_scale:
            return replace(conditional, shift=shift)
        if type(conditional) is not Affine:
            raise ConfigurationError(
                f"LinearScaleGuidance extrapolates the scale of affine maps, not of"
                f" {type(conditional).__name__}: choose on_scale=False, or LinearGuidance"
            )
        # s / s_c, which is exactly one where the predictions agree, and does not overflow with s
        factor = 1 - weight * torch.expm1(null.log_scale - log_scale)
        size = factor.abs()
        return SignedAffine(log_scale + size.log(), shift, (factor / size).detach())


@dataclass(frozen=True, repr=False)
class GaussianGuidance(Guidance):
    r"""Follows the score $(1 + w) s_c - w s_n$ of two Gaussians (STARFlow, arXiv 2506.06276).

    With $r = \min(\sigma_c^2 / \sigma_n^2, 1)$ the result is the Gaussian of mean
    $((1 + w) \mu_c - w r \mu_n) / (1 + w - w r)$ and scale $\sigma_c / \sqrt{1 + w - w r}$.
    By default it acts on the transform nearest the noise alone.
    """

    depths: Sequence[int] | None = field(default=(0,), kw_only=True, metadata=LATER)

    def __call__(self, conditional: Affine, null: Affine, weight: Weight) -> Affine:
        ratio = torch.exp(2 * (conditional.log_scale - null.log_scale)).clamp(max=1)
        precision = 1 + weight - weight * ratio
        shift = (1 + weight) * conditional.shift - weight * ratio * null.shift
        log_scale = conditional.log_scale - 0.5 * precision.log()
        return replace(conditional, log_scale=log_scale, shift=shift / precision)


def _read_depths(depths: Any) -> tuple[int, ...] | None:
    """Depths in order, each once, or a `ConfigurationError`."""
    if depths is None:
        return None
    if isinstance(depths, str) or not isinstance(depths, Sequence) or not len(depths):
        raise ConfigurationError(
            f"depths {shown(depths)} of guidance: give a list of one or more, such as [0] for the"
            " transform nearest the noise, or None for all transforms"
        )
    return tuple(sorted({check_integer("one of depths,", depth, least=0) for depth in depths}))


def _check_acts(**on: bool) -> None:
    """Refuse a rule that would cost a pass and change nothing."""
    if not any(on.values()):
        names = " and ".join(f"{name}=False" for name in on)
        raise ConfigurationError(f"guidance with {names} acts on nothing: weight 0 is off")
