"""Systems of particles whose density is known but for a factor: energies to fit flows to."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.linalg import helmert
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep, keep_positive
from tarflow.errors import ConfigurationError
from tarflow.randomness import RandomSource, normal, uniform
from tarflow.registry import Part

Vectors = Float[Tensor, "num dim"]
Particles = Float[Tensor, "num particles space"]


@dataclass(frozen=True)
class ParticleSystem(Part, ABC):
    r"""Particles of one kind with the density $e^{-E(x)} / Z$, which no rigid motion changes.

    The density is one of shapes and orientations: translations are left out. A vector x holds the
    coordinates of mean-free positions in an orthonormal basis, so that densities of the one are
    those of the other. Its first d numbers lead from particle 2 to particle 1, the next d from
    particle 3 to the mean of these two, and so on, each but for a factor.

    Attributes:
        num_particles: Number of particles n.
        space_dim: Dimensions d of the space they are in.
        temperature: What energies are divided by.
    """

    num_particles: int
    space_dim: int
    temperature: float = 1.0

    def __post_init__(self):
        for name, least in (("num_particles", 2), ("space_dim", 1)):
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        keep_positive(self, "temperature")

    @property
    def dim(self) -> int:
        """Size (n - 1) d of the vectors."""
        return (self.num_particles - 1) * self.space_dim

    @abstractmethod
    def potential(self, positions: Particles) -> Float[Tensor, " num"]:
        """The potential energy of mean-free positions."""

    def energy(self, x: Vectors) -> Float[Tensor, " num"]:
        """The energy E of vectors: the potential energy over the temperature."""
        return self.potential(self.positions(x)) / self.temperature

    def positions(self, x: Vectors) -> Particles:
        """The positions of particles, whose mean is 0."""
        steps = x.unflatten(1, (self.num_particles - 1, self.space_dim))
        return torch.einsum("sp,nsd->npd", self._basis(x), steps)

    def vectors(self, positions: Particles) -> Vectors:
        """The vectors of positions, whatever their mean is."""
        return torch.einsum("sp,npd->nsd", self._basis(positions), positions).flatten(1)

    def distances(self, x: Vectors) -> Float[Tensor, "num pairs"]:
        """The distance of each pair of particles."""
        return pair_distances(self.positions(x))

    def moved(self, x: Vectors, source: RandomSource = None) -> Vectors:
        """Examples as likely as these: each turned, mirrored and its particles swapped at random.

        Of examples of the density these are others, so that a few tell a fit as much as many do.
        """
        shape = (len(x), self.space_dim, self.space_dim)
        # The orthogonal factor, with a positive diagonal of the other, is uniform.
        turn, upper = torch.linalg.qr(normal(shape, source, x.dtype, x.device, "turn"))
        turn = turn * upper.diagonal(dim1=1, dim2=2).sign()[:, None]
        keys = uniform((len(x), self.num_particles), source, x.dtype, x.device, "order")
        order = keys.argsort(dim=1)[:, :, None].expand(-1, -1, self.space_dim)
        return self.vectors(self.positions(x).gather(1, order) @ turn)

    def _basis(self, like: Tensor) -> Float[Tensor, "steps particles"]:
        """The rows of sum 0 of the Helmert matrix, which are orthonormal."""
        return like.new_tensor(helmert(self.num_particles))


@dataclass(frozen=True)
class DoubleWell(ParticleSystem):
    r"""Pairs at distances r that are in one of two wells: DW-4 (Koehler et al., arXiv 2006.02425).

    $U = \sum_{i<j} a (r_{ij} - r_0) + b (r_{ij} - r_0)^2 + c (r_{ij} - r_0)^4$: every pair counts
    once. The paper writes a sum over all i and j and halves it.

    Attributes:
        slope: The number a.
        curvature: The number b, negative for two wells.
        quartic: The number c, which is positive.
        distance: The distance $r_0$ between the wells.
    """

    num_particles: int = 4
    space_dim: int = 2
    slope: float = 0.0
    curvature: float = -4.0
    quartic: float = 0.9
    distance: float = 4.0

    def __post_init__(self):
        super().__post_init__()
        keep_positive(self, "quartic")

    def potential(self, positions: Particles) -> Float[Tensor, " num"]:
        gap = pair_distances(positions) - self.distance
        square = gap.square()
        each = self.slope * gap + self.curvature * square + self.quartic * square.square()
        return each.sum(dim=1)


@dataclass(frozen=True)
class LennardJones(ParticleSystem):
    r"""A cluster of Lennard-Jones particles: LJ-13 (Koehler et al., arXiv 2006.02425).

    $U = \sum_{i<j} \epsilon [(r_m / r_{ij})^{12} - 2 (r_m / r_{ij})^6] + \frac{k}{2} \sum_i
    |x_i - \bar x|^2$: every pair counts once, and springs keep particles from leaving. The paper
    has pairs of depth 1; of depth 2, as here, are those of arXiv 2306.15030 and 2402.06121, whose
    sums count every pair of depth 1 twice.

    Attributes:
        depth: The depth $\epsilon$ of the well of a pair; 0 leaves the springs alone.
        distance: The distance $r_m$ of its bottom.
        spring: The constant k of the springs.
    """

    num_particles: int = 13
    space_dim: int = 3
    depth: float = 2.0
    distance: float = 1.0
    spring: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        keep_positive(self, "distance")
        for name in ("depth", "spring"):
            value = check_real(name, getattr(self, name))
            if not 0 <= value < math.inf:
                raise ConfigurationError(f"{name} {value} must be finite and not negative")
            keep(self, **{name: value})

    def potential(self, positions: Particles) -> Float[Tensor, " num"]:
        sixth = (self.distance / pair_distances(positions)) ** 6
        pairs = self.depth * (sixth.square() - 2 * sixth).sum(dim=1)
        return pairs + self.spring / 2 * positions.square().sum(dim=(1, 2))


def pair_distances(positions: Particles) -> Float[Tensor, "num pairs"]:
    """The distance of each pair of particles."""
    first, second = torch.triu_indices(*[positions.shape[1]] * 2, offset=1).to(positions.device)
    return (positions[:, first] - positions[:, second]).norm(dim=2)


def distance_matrix(positions: Particles) -> Float[Tensor, "num particles particles"]:
    """The distance of each particle to each."""
    count = positions.shape[1]
    first, second = torch.triu_indices(count, count, offset=1).to(positions.device)
    upper = positions.new_zeros(len(positions), count, count)
    upper[:, first, second] = pair_distances(positions)
    return upper + upper.mT
