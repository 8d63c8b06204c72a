"""Ways to invert an autoregressive transform."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tarflow.arguments import check_instance
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Affine
from tarflow.flows.guidance import Guidance
from tarflow.nn.networks import Networks
from tarflow.registry import Part

Predict = Callable[[Float[Tensor, "batch window patch_dim"], int], Affine]
"""Given values at positions `start ...`, predicts the maps one position further on."""


@dataclass(frozen=True)
class Decoded:
    """The solution of one transform.

    Attributes:
        x: The data.
        affine: The maps of all positions but the first, as predicted from x.
        passes: Number of times that the prediction was computed.
        iterations: In how many of them each example was not finished.
        non_finite: Number of drafts of each example that were not finite, and were thrown away.
    """

    x: Float[Tensor, "batch length patch_dim"]
    affine: Affine
    passes: int
    iterations: Int[Tensor, " batch"]
    non_finite: Int[Tensor, " batch"]


def residual(
    affine: Affine,
    x: Float[Tensor, "batch length patch_dim"],
    z: Float[Tensor, "batch length patch_dim"],
) -> Float[Tensor, " batch"]:
    """How far the noise of x, given the maps predicted from x, is from z, at its farthest.

    x is *exactly* what decoding that noise yields: a backward error, one for each example.
    """
    if x.shape[1] == 1:
        return z.new_zeros(len(z))
    return (affine.to_noise(x[:, 1:]) - z[:, 1:]).abs().amax(dim=(1, 2))


class Decoder(Part, ABC):
    """Finds the x that an autoregressive transform maps to a given z."""

    tolerance: float = torch.inf
    """Largest residual that is allowed, where that of its own rounding is not all there is."""

    @abstractmethod
    def __call__(self, predict: Predict, z: Float[Tensor, "batch length patch_dim"]) -> Decoded:
        """Decode a batch.

        Args:
            predict: The transform's prediction, guided or not; it keeps its own cache.
            z: The noise.
        """

    def at(self, depth: int) -> "Decoder":
        """The decoder for a transform, given how many were inverted before it."""
        return self


@dataclass(frozen=True)
class Sequential(Decoder):
    """One position after the other: exact, in one step fewer than there are positions."""

    def __call__(self, predict, z):
        x, log_scale, shift = [z[:, :1]], [], []
        for position in range(z.shape[1] - 1):
            affine = predict(x[-1], position)
            x.append(affine.to_data(z[:, position + 1 : position + 2]))
            log_scale.append(affine.log_scale)
            shift.append(affine.shift)
        nothing = [z[:, :0]]
        steps = len(shift)
        return Decoded(
            torch.cat(x, dim=1),
            Affine(torch.cat(log_scale or nothing, dim=1), torch.cat(shift or nothing, dim=1)),
            passes=steps,
            iterations=torch.full((len(z),), steps, device=z.device),
            non_finite=torch.zeros(len(z), dtype=torch.long, device=z.device),
        )


@dataclass(frozen=True)
class PerTransform(Decoder):
    """A decoder of its own for each autoregressive transform.

    Attributes:
        decoders: The decoders, that of the transform nearest the noise first.
    """

    decoders: tuple[Decoder, ...]

    def __post_init__(self):
        check_instance("decoders", self.decoders, tuple, "pass one of decoders")
        for decoder in self.decoders:
            check_instance("one of decoders,", decoder, Decoder, "pass one, such as Sequential()")

    def __call__(self, predict, z):
        raise ConfigurationError("PerTransform decodes through the decoders that it holds: at()")

    def at(self, depth: int) -> Decoder:
        if depth >= len(self.decoders):
            raise ConfigurationError(
                f"there are decoders for {len(self.decoders)} transforms, but the flow has more:"
                " give one for each, that of the transform nearest the noise first"
            )
        return self.decoders[depth]


@dataclass(frozen=True)
class Decoding:
    """How to invert a flow, carried from transform to transform.

    Attributes:
        decoder: How autoregressive transforms are inverted.
        guidance: The rule that guides predictions; None for none.
        networks: The transformers as decoding runs them; kept from batch to batch.
        certify: Whether a decoder without a tolerance is checked too, where transformers compute
            in less than the precision of their weights.
        depth: How many autoregressive transforms were inverted before.
    """

    decoder: Decoder = Sequential()
    guidance: Guidance | None = None
    networks: Networks = field(default_factory=Networks)
    certify: bool = False
    depth: int = 0

    @property
    def active_guidance(self) -> Guidance | None:
        """The guidance, where it acts at this depth."""
        if self.guidance is not None and self.guidance.acts_at(self.depth):
            return self.guidance
        return None

    def deeper(self, num_decoded: int) -> "Decoding":
        """The same, after some more autoregressive transforms were inverted."""
        return replace(self, depth=self.depth + num_decoded)
