"""Densities in the plane that are known exactly: ground truth to fit flows to."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep, keep_positive
from tarflow.errors import ConfigurationError
from tarflow.randomness import RandomSource, normal, uniform
from tarflow.registry import Part

Points = Float[Tensor, "num two"]


class PlanarDensity(Part, ABC):
    """A density in the plane with exact samples and log-densities, in nats."""

    @abstractmethod
    def sample(self, num_samples: int, source: RandomSource = None) -> Points:
        """Draw points."""

    @abstractmethod
    def log_prob(self, x: Points) -> Float[Tensor, " num"]:
        """The log-density of points."""


def _uniform(num: int, source: RandomSource, *shape: int) -> Tensor:
    """Uniform draws in float64, so that log-densities are exact."""
    return uniform((num, *shape), source, torch.float64, "cpu", "truth")


def _quantile(share: Tensor, mean: Tensor | float, std: float) -> Tensor:
    """The number below which a normal density has a share of its mass."""
    return mean + std * math.sqrt(2) * torch.erfinv(2 * share.clamp(1e-12) - 1)


def _log_normal(x: Tensor, mean: Tensor | float, std: float) -> Tensor:
    """A normal log-density."""
    return -0.5 * ((x - mean) / std).square() - math.log(std) - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Moons(PlanarDensity):
    r"""Two half circles that interlock, of radius 1, with normal noise of the radius.

    In polar coordinates around its centre, a moon has the density $\mathcal N(r; 1, s^2) / \pi$ of
    r and of the angle on its side; the Jacobian makes it one of the plane.

    Attributes:
        std: Standard deviation s of the radius.
    """

    std: float = 0.1

    def __post_init__(self):
        keep_positive(self, "std")

    def sample(self, num_samples: int, source: RandomSource = None) -> Points:
        side, angle, radius = _uniform(num_samples, source, 3).unbind(1)
        second = (side < 0.5).double()
        radius = _quantile(radius, 1.0, self.std)
        x = radius * (math.pi * angle).cos() * (1 - 2 * second) + second
        y = radius * (math.pi * angle).sin() * (1 - 2 * second) + 0.5 * second
        return torch.stack([x, y], dim=1)

    def log_prob(self, x: Points) -> Float[Tensor, " num"]:
        moons = []
        for centre, side in (((0.0, 0.0), 1), ((1.0, 0.5), -1)):
            moved = x - x.new_tensor(centre)
            radius = moved.norm(dim=1)
            # A negative radius, which a normal has too, lies on the other side.
            away = torch.where(side * moved[:, 1] >= 0, radius, -radius)
            moons.append(_log_normal(away, 1.0, self.std) - (math.pi * radius).log())
        return torch.stack(moons).logsumexp(dim=0) - math.log(2)


@dataclass(frozen=True)
class Checkerboard(PlanarDensity):
    """Uniform on every other square of a board of 4 x 4, from -2 to 2."""

    def sample(self, num_samples: int, source: RandomSource = None) -> Points:
        x, row, y = _uniform(num_samples, source, 3).unbind(1)
        column = (4 * x).floor()
        row = 2 * (2 * row).floor() + column % 2
        return torch.stack([4 * x - 2, row + y - 2], dim=1)

    def log_prob(self, x: Points) -> Float[Tensor, " num"]:
        column, row = (x + 2).floor().unbind(1)
        there = ((x >= -2) & (x < 2)).all(dim=1) & ((column - row) % 2 == 0)
        return torch.where(there, -math.log(8), -math.inf).to(x)


@dataclass(frozen=True)
class Rings(PlanarDensity):
    r"""Concentric rings of equal mass, with normal noise of the radius.

    Attributes:
        radii: Their radii.
        std: Standard deviation of the radius.
    """

    radii: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    std: float = 0.06

    def __post_init__(self):
        keep_positive(self, "std")
        keep(self, radii=tuple(check_real("one of radii,", radius) for radius in self.radii))
        if not self.radii or min(self.radii) <= 0:
            raise ConfigurationError(f"radii {self.radii} must be positive numbers")

    def sample(self, num_samples: int, source: RandomSource = None) -> Points:
        ring, angle, radius = _uniform(num_samples, source, 3).unbind(1)
        middle = torch.tensor(self.radii, dtype=torch.float64)[(ring * len(self.radii)).long()]
        radius = _quantile(radius, middle, self.std)
        angle = 2 * math.pi * angle
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)

    def log_prob(self, x: Points) -> Float[Tensor, " num"]:
        radius = x.norm(dim=1)
        radii = x.new_tensor(self.radii)
        # As far away on the other side: a negative radius.
        each = _log_normal(torch.stack([radius, -radius])[..., None], radii, self.std)
        total = each.logsumexp(dim=(0, 2)) - math.log(len(self.radii))
        return total - math.log(2 * math.pi) - radius.log()


@dataclass(frozen=True)
class NormalMixture(PlanarDensity):
    """Normal densities of equal mass, evenly on a circle.

    Attributes:
        count: Number of them.
        radius: Radius of the circle.
        std: Standard deviation of each.
    """

    count: int = 8
    radius: float = 2.0
    std: float = 0.2

    def __post_init__(self):
        keep(self, count=check_integer("count", self.count, least=1))
        keep_positive(self, "radius", "std")

    def sample(self, num_samples: int, source: RandomSource = None) -> Points:
        chosen = (_uniform(num_samples, source) * self.count).long()
        noise = normal((num_samples, 2), source, torch.float64, "cpu", "noise")
        return self._centres[chosen] + self.std * noise

    def log_prob(self, x: Points) -> Float[Tensor, " num"]:
        each = _log_normal(x[:, None], self._centres.to(x), self.std).sum(dim=2)
        return each.logsumexp(dim=1) - math.log(self.count)

    @property
    def _centres(self) -> Points:
        """Where they lie."""
        angle = torch.arange(self.count, dtype=torch.float64) * (2 * math.pi / self.count)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)
