"""Codecs: how what is stored becomes the numbers of a density, and back."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from tarflow.arguments import check_integer, keep
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource, uniform
from tarflow.registry import Part

Stored = Shaped[Tensor, "batch ..."]


class Codec(Part, ABC):
    """Maps stored values to the x of a density, and back; noise is another matter.

    A codec without weights is a frozen dataclass. One with weights is a module, a
    `tarflow.Tokenizer`: a flow keeps it with its own.
    """

    dim: ClassVar[str] = "dim"
    """What a dimension of x is called, where likelihoods are told per dimension."""
    decodes_noise: float = 0.0
    """Standard deviation of noise in x that `decode` removes by itself."""

    @abstractmethod
    def encode(
        self, stored: Stored, source: RandomSource = None, dtype: torch.dtype = torch.float32
    ) -> Examples:
        """Map stored values to x of a dtype, on their device; a codec may draw from the source."""

    @abstractmethod
    def decode(self, x: Examples) -> Stored:
        """The stored values that are nearest to x; 0, which is black, where x is NaN."""

    @abstractmethod
    def to_bytes(self, stored: Stored) -> UInt8[Tensor, "batch ..."]:
        """Stored values as they are shown in pictures: 0 is black, 255 white."""

    def encoded_shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an example's x, from that of its stored values."""
        return stored

    def decoded_shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the stored values that `decode` makes, from that of an example's x."""
        return x

    @property
    def itemsize(self) -> int:
        """Bytes of each of the values that `decode` makes."""
        return self.decode(torch.zeros(1)).element_size()

    @property
    def told(self) -> dict[str, Any]:
        """What the codec of a data set tells one that is made for it, as `Pixels` its levels."""
        names = [field.name for field in fields(self)] if is_dataclass(self) else []
        return {name: getattr(self, name) for name in names}

    def compared(self, other: "Codec") -> Iterator[tuple[str, Any, Any]]:
        """What has to be the same for this codec to read what is stored for another.

        Yields:
            What it is, in words; what it is here; what it is there.
        """
        theirs = other.told
        if self.dim != other.dim:  # latents are not for a codec of pixels
            yield "codec", self.words, other.words
        yield from ((name, own, theirs[name]) for name, own in self.told.items() if name in theirs)

    def held(self) -> "Codec":
        """This codec, as a model of its data keeps it: weights, if it has any, do not learn."""
        return self

    @property
    def words(self) -> str:
        """The codec, as reports name it."""
        return repr(self)


@dataclass(frozen=True)
class Pixels(Codec):
    r"""Integers $p$ from 0 to $L - 1$ as points of [-1, 1]: $x = 2 p / (L - 1) - 1$.

    Attributes:
        levels: Number L of values that a pixel takes; 256 for 8-bit images.
    """

    levels: int = 256

    def __post_init__(self):
        keep(self, levels=check_integer("levels", self.levels, least=2))

    @property
    def largest(self) -> int:
        """The largest stored value."""
        return self.levels - 1

    def encode(
        self, stored: Stored, source: RandomSource = None, dtype: torch.dtype = torch.float32
    ) -> Examples:
        return 2 * stored.to(dtype) / self.largest - 1

    def decode(self, x: Examples) -> Stored:
        return self._clamp(((x + 1) / 2 * self.largest).round())

    def to_bytes(self, stored: Stored) -> UInt8[Tensor, "batch ..."]:
        return (stored.double() * 255 / self.largest).round().to(torch.uint8)

    def _clamp(self, stored: Stored) -> Stored:
        """Keep integers within range and store them as bytes where they fit."""
        clamped = stored.clamp(0, self.largest).nan_to_num(0)
        return clamped.to(torch.uint8 if self.levels <= 256 else torch.int32)


@dataclass(frozen=True)
class UniformDequantization(Pixels):
    r"""Integers as cells of [-1, 1]: $x = 2 (p + u) / L - 1$ with $u \sim U[0, 1)$.

    A density of x bounds the probability of the integers, hence has a likelihood in bits.
    """

    def encode(
        self, stored: Stored, source: RandomSource = None, dtype: torch.dtype = torch.float32
    ) -> Examples:
        u = uniform(stored.shape, source, dtype, stored.device, "noise")
        return 2 * (stored.to(dtype) + u) / self.levels - 1

    def decode(self, x: Examples) -> Stored:
        return self._clamp(((x + 1) / 2 * self.levels).floor())

    def bits_per_dim(self, log_prob: PerExample, num_dims: int) -> PerExample:
        r"""Bits per dimension: $-\log p(x) / (D \ln 2) + \log_2(L / 2)$.

        Log-densities are in nats, D is the number of dimensions of an example. The uniform density
        on $[-1, 1]^D$ scores exactly $\log_2 L$.

        Example:
            >>> UniformDequantization(256).bits_per_dim(torch.tensor([-3 * math.log(2)]), 3)
            tensor([8.])
        """
        return -log_prob / (num_dims * math.log(2)) + math.log2(self.levels / 2)
