"""A guidance rule that acts on shifts, and less on sharp predictions."""

from dataclasses import dataclass

from torch import Tensor

from tarflow import Affine, Guidance


@dataclass(frozen=True)
class WideGuidance(Guidance):
    """Moves the shift by the weight times the scale of the conditional prediction."""

    def __call__(self, conditional: Affine, null: Affine, weight: Tensor) -> Affine:
        strength = weight * conditional.log_scale.exp().clamp(max=1)
        shift = conditional.shift + strength * (conditional.shift - null.shift)
        return Affine(conditional.log_scale, shift)
