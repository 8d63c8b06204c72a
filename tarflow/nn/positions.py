"""Positions: how a transformer knows where in a sequence, and in a grid, a vector stands."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.registry import Part

Coordinates = Int[Tensor, "length axes"]
"""Where in a grid each position of a sequence lies, in the order in which that is read."""

Angles = Float64[Tensor, "length pairs"]
"""By which angle each pair of a head's numbers is turned, at each position."""


@dataclass(frozen=True)
class Positions(Part, ABC):
    """Describes what a transformer adds at each position, and how far it turns queries and keys.

    Turned queries and keys have a product that depends on the difference of their angles.
    """

    def table(self, length: int, model_dim: int) -> nn.Parameter | None:
        """A learned vector for each position, added to what the layers read; or none."""
        return None

    def rotation(self, coordinates: Coordinates, head_dim: int) -> "Rotation | None":
        """What turns queries and keys; or nothing.

        Raises:
            ConfigurationError: The width of a head does not allow it.
        """
        return None


@dataclass(frozen=True)
class LearnedPositions(Positions):
    """A learned vector for each position (TarFlow, arXiv 2412.06329)."""

    def table(self, length: int, model_dim: int) -> nn.Parameter:
        return nn.Parameter(0.01 * torch.randn(length, model_dim))


@dataclass(frozen=True)
class Rotary(Positions, ABC):
    r"""Turns pairs of numbers, the k-th by $\mathrm{base}^{-k/n}$ a step (arXiv 2104.09864).

    Here n is the number of pairs, and a pair the k-th number of the first half of a head and the
    k-th of the second.

    Attributes:
        base: The slowest pair takes about `2 pi base` steps for a full turn.
        added: Learned vectors that are added as well; by default none: an angle tells how far two
            positions are apart, and only a vector where they are.

    Raises:
        ConfigurationError: The base is not above 1, or what is added is not `LearnedPositions`.
    """

    base: float = 10_000.0
    added: LearnedPositions | None = None

    def __post_init__(self):
        keep(self, base=check_real("base", self.base))
        if not self.base > 1:
            raise ConfigurationError(f"base {self.base} of rotary positions must be above 1")
        if self.added is not None:
            check_instance("added", self.added, LearnedPositions, "pass LearnedPositions()")

    def table(self, length: int, model_dim: int) -> nn.Parameter | None:
        return None if self.added is None else self.added.table(length, model_dim)

    def rotation(self, coordinates: Coordinates, head_dim: int) -> "Rotation":
        return Rotation(self, coordinates, head_dim)

    @abstractmethod
    def angles(self, coordinates: Coordinates, head_dim: int) -> Angles:
        """The angles of all positions."""

    def turns(self, steps: Coordinates, head_dim: int) -> Angles:
        """The angles where each axis turns as many pairs as the others, one axis after another."""
        length, axes = steps.shape
        num_pairs, rest = divmod(head_dim, 2 * axes)
        if rest:
            raise ConfigurationError(
                f"head_dim {head_dim} is not a multiple of {2 * axes}, of which rotary positions"
                f" along {axes} {'axis' if axes == 1 else 'axes'} turn pairs of numbers"
            )
        place = torch.arange(num_pairs, dtype=torch.float64, device="cpu") / num_pairs
        return (steps.double()[..., None] * self.base**-place).reshape(length, axes * num_pairs)


@dataclass(frozen=True)
class RotaryPositions(Rotary):
    """Rotary positions in one dimension: steps are those of the sequence."""

    def angles(self, coordinates: Coordinates, head_dim: int) -> Angles:
        return self.turns(torch.arange(len(coordinates), device="cpu")[:, None], head_dim)


@dataclass(frozen=True)
class RotaryGrid(Rotary):
    """Rotary positions in the grid: half of the pairs turn by the row, half by the column.

    So two patches are as far apart as in the image, in whatever order a transform reads them. For
    other numbers of coordinates than two, each has its share of the pairs.
    """

    def angles(self, coordinates: Coordinates, head_dim: int) -> Angles:
        return self.turns(coordinates, head_dim)


class Rotation(nn.Module):
    """Cosines and sines of the angles by which queries and keys are turned.

    They are computed anew, from float64, whenever the module moves or changes its precision, and
    are float32 at least: so they are the same wherever they are used, and nothing saves them.

    Args:
        positions: Gives the angles.
        coordinates: Where in the grid each position of the sequence lies.
        head_dim: Width of a head.
    """

    table: Float[Tensor, "length twice_head_dim"]

    def __init__(self, positions: Rotary, coordinates: Coordinates, head_dim: int):
        super().__init__()
        self.positions = positions
        self.head_dim = head_dim
        # Not a buffer: it stays where it is, also when buffers lose their content.
        self.coordinates = coordinates
        self.register_buffer("table", self._computed_as(torch.empty(0)), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.table = self._computed_as(self.table)
        return self

    def _computed_as(self, like: Tensor) -> Tensor:
        """The table on a tensor's device, in its precision but no less than float32."""
        angles = self.positions.angles(self.coordinates, self.head_dim)
        cos, sin = angles.cos(), angles.sin()
        table = torch.cat([cos, cos, -sin, sin], dim=-1)
        return table.to(torch.promote_types(like.dtype, torch.float32)).to(like.device)


def in_a_row(length: int) -> Coordinates:
    """Coordinates of a grid of one row."""
    columns = torch.arange(length, device="cpu")
    return torch.stack([torch.zeros_like(columns), columns], dim=1)


def turn(
    x: Float[Tensor, "batch heads window head_dim"],
    cos: Float[Tensor, "*own window head_dim"],
    sin: Float[Tensor, "*own window head_dim"],
) -> Float[Tensor, "batch heads window head_dim"]:
    """Turn each pair of numbers, one of the first half and one of the second, by its angle.

    The sines of the first half have their sign changed. Angles may differ between
    examples.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)
