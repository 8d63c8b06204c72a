"""What an autoregressive transform does to the position that nothing precedes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tarflow.flows.shapes import Sequences
from tarflow.registry import Part

Extended = Float[Tensor, "batch extended patch_dim"]
"""Sequences with positions in front."""


class FirstPosition(Part, ABC):
    """Puts positions in front of a sequence before it is transformed, and takes them away after.

    The first position of what is transformed is left as it is.
    """

    num_added: ClassVar[int]
    """Number of positions in front, 0 or 1, since a second would be transformed."""

    @abstractmethod
    def extend(self, x: Sequences) -> Extended:
        """Put them in front."""

    @abstractmethod
    def strip(self, x: Extended) -> Sequences:
        """Take them away."""


@dataclass(frozen=True)
class FixedFirst(FirstPosition):
    """The first position stays as it is, whatever the context: nothing precedes it (TarFlow)."""

    num_added: ClassVar[int] = 0

    def extend(self, x: Sequences) -> Extended:
        return x

    def strip(self, x: Extended) -> Sequences:
        return x


@dataclass(frozen=True)
class StartToken(FirstPosition):
    """A learned start precedes the first position, which is transformed like any other.

    The start is a position whose value is always zero: what the network learns there is its
    position embedding, where positions have one. So the first position depends on the context, and
    a sequence may be of one position. Decoding takes one step more.
    """

    num_added: ClassVar[int] = 1

    def extend(self, x: Sequences) -> Extended:
        return F.pad(x, (0, 0, 1, 0))

    def strip(self, x: Extended) -> Sequences:
        return x[:, 1:]
