"""Ways to invert an autoregressive transform, and all that decoding is told."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TypedDict

import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.arguments import check_instance
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Affine, Vectors
from tarflow.flows.guidance import Guidance
from tarflow.flows.report import Inverse, SamplingReport
from tarflow.flows.shapes import PerExample, Sequences
from tarflow.nn.attention import Fronts
from tarflow.nn.networks import Networks
from tarflow.registry import Part


class Predict(ABC):
    """Predicts maps from the values before them: what a decoder solves for."""

    @abstractmethod
    def __call__(self, x: Vectors, start: int | Fronts) -> Affine:
        """Given values at positions `start ...`, the maps one position further on.

        The start is the same for all examples, or each has its own, known to the device alone.
        """

    def step(self, x: Vectors, position: int, z: Vectors) -> tuple[Vectors, Affine]:
        """Given the value at a position and the noise of the next one, that value and its map."""
        affine = self(x, position)
        return affine.to_data(z), affine


def residual(affine: Affine, x: Sequences, z: Sequences) -> PerExample:
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
    def __call__(self, predict: Predict, z: Sequences) -> Inverse:
        """Decode a batch, without gradients, by a prediction that keeps its own cache.

        The prediction may be guided; `solved` makes the result.
        """

    def at(self, depth: int) -> "Decoder":
        """The decoder for a transform, given how many were inverted before it."""
        return self

    def solved(
        self,
        z: Sequences,
        x: Sequences,
        affine: Affine,
        passes: int,
        iterations: Int[Tensor, " batch"] | None = None,
        non_finite: Int[Tensor, " batch"] | None = None,
    ) -> Inverse:
        """The result of decoding z to x, measured.

        Args:
            z: The noise.
            x: The data.
            affine: The maps of all positions but the first, as predicted from x.
            passes: Number of times that the prediction was computed.
            iterations: In how many of them each example was not finished; by default in all.
            non_finite: Number of drafts of each example that were thrown away; by default none.
        """
        none = torch.zeros(1, len(z), dtype=torch.long, device=z.device)
        report = SamplingReport(
            (self,),
            residual(affine, x, z)[None],
            none + passes if iterations is None else iterations[None],
            (passes,),
            none if non_finite is None else non_finite[None],
            none.bool(),
            (self.tolerance == torch.inf,),
            x.isfinite().all(dim=2).all(dim=1)[None],
        )
        return Inverse(x, affine.log_det(x[:, 1:]), report)


@dataclass(frozen=True)
class Sequential(Decoder):
    """One position after the other: exact, in one step fewer than there are positions."""

    def __call__(self, predict: Predict, z: Sequences) -> Inverse:
        x, maps = [z[:, :1]], []
        for position in range(z.shape[1] - 1):
            value, affine = predict.step(x[-1], position, z.narrow(1, position + 1, 1))
            x.append(value)
            maps.append(affine)
        affine = Affine.cat(maps) if maps else Affine.identity(z[:, 1:])
        return self.solved(z, torch.cat(x, dim=1), affine, passes=z.shape[1] - 1)


@dataclass(frozen=True)
class PerTransform(Decoder):
    """A decoder of its own for each autoregressive transform, that nearest the noise first."""

    decoders: tuple[Decoder, ...]

    def __post_init__(self):
        check_instance("decoders", self.decoders, tuple, "pass one of decoders")
        for decoder in self.decoders:
            check_instance("one of decoders,", decoder, Decoder, "pass one, such as Sequential()")

    def __call__(self, predict: Predict, z: Sequences) -> Inverse:
        raise ConfigurationError("PerTransform decodes through the decoders that it holds: at()")

    def at(self, depth: int) -> Decoder:
        if depth >= len(self.decoders):
            raise ConfigurationError(
                f"there are decoders for {len(self.decoders)} transforms, but the flow has more:"
                " give one for each, that of the transform nearest the noise first"
            )
        return self.decoders[depth]


class DecodeKeywords(TypedDict, total=False):
    """The fields of `DecodeOptions`, where they are passed one by one."""

    guidance: Guidance | None
    decoder: Decoder
    dtype: torch.dtype | None
    compile: bool
    networks: Networks | None
    certify: bool


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode: what `sample`, `inverse` and all that stands on them may be told.

    Example:
        >>> from tarflow import Jacobi, TarFlow
        >>> options = DecodeOptions(decoder=Jacobi(window=8), dtype=torch.bfloat16)
        >>> flow = TarFlow(8, 2, num_channels=1, model_dim=64, num_layers=1).eval()
        >>> flow.sample(5, options=options).shape, flow.sample(5, decoder=Jacobi(8)).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5, 1, 8, 8]))

    Attributes:
        guidance: Moves every prediction away from that of a null context; one of weight 0 is none.
        decoder: How each autoregressive transform is inverted.
        dtype: Precision in which transformers compute, such as `torch.bfloat16`; by default that
            of their weights. The state z, x stays in float32 or above.
        compile: Whether single steps run compiled: pays after many samples, if at all
            (docs/experiments.md).
        networks: Carries what `dtype` and `compile` prepare from call to call, in their place.
        certify: Whether sequential decoding in a lower `dtype` is checked as well, by one parallel
            pass for each transform.
        depth: How many autoregressive transforms were inverted before: compositions count them.

    Raises:
        ConfigurationError: A name or a number stands where an object is expected, or the dtype is
            not one to compute in.
    """

    guidance: Guidance | None = None
    decoder: Decoder = Sequential()
    dtype: torch.dtype | None = None
    compile: bool = False
    networks: Networks | None = None
    certify: bool = False
    depth: int = field(default=0, repr=False)

    def __post_init__(self):
        check_instance("decoder", self.decoder, Decoder, "pass one, such as Sequential()")
        if isinstance(self.dtype, str):
            raise ConfigurationError(
                f"dtype {self.dtype!r}: pass one of torch, such as torch.bfloat16; a precision of"
                " another name goes as networks=Networks(name)"
            )
        Networks(self.dtype, self.compile)  # checks them
        if self.networks is not None:
            check_instance("networks", self.networks, Networks, "pass Networks(dtype, compile)")
        if self.guidance is not None:
            check_instance("guidance", self.guidance, Guidance, "pass LinearGuidance(1.5), say")
            if self.guidance.weight == 0:
                object.__setattr__(self, "guidance", None)

    @classmethod
    def of(cls, options: "DecodeOptions", keywords: DecodeKeywords) -> "DecodeOptions":
        """The options, but for what keywords say."""
        check_instance("options", options, cls, "pass DecodeOptions(...), or keywords")
        return replace(options, **keywords)

    @property
    def rule(self) -> Guidance | None:
        """The guidance, where it acts at this depth."""
        acts = self.guidance is not None and self.guidance.acts_at(self.depth)
        return self.guidance if acts else None

    def prepared(self) -> "DecodeOptions":
        """The same with networks that keep what they prepare, for many calls."""
        return replace(self, networks=self.networks or Networks(self.dtype, self.compile))

    def deeper(self, num_decoded: int) -> "DecodeOptions":
        """The same, after some more autoregressive transforms were inverted."""
        return replace(self, depth=self.depth + num_decoded) if num_decoded else self
