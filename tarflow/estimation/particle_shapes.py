"""Shapes of particle systems: vectors without what rigid motions and names of particles add."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from tarflow.arguments import check_instance, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.estimation.particles import (
    Particles,
    ParticleSystem,
    Vectors,
    distance_matrix,
    pair_distances,
)
from tarflow.flows.supports import HalfLine, Real, Support
from tarflow.randomness import RandomSource, uniform
from tarflow.registry import Part

PerExample = Float[Tensor, " num"]
Shapes = Float[Tensor, "num numbers"]
Distances = Float[Tensor, "num n"]


@dataclass(frozen=True)
class ParticleShapes(Part):
    r"""The density of a system's shapes: each is turned in one way, its particles in some order.

    The steps X of `ParticleSystem` have rows of d numbers. $X = L Q$ with an orthogonal Q and a
    lower trapezoidal L with a positive diagonal; the entries of L are the vector x of a shape. As
    $dX = \prod_i l_{ii}^{d - i} \, dL \, dQ$, its density is that of X, times this product and the
    volume of all Q.

    Particles are put in order one after the other, at random, but mostly so that the first is near
    all others, by the sum $s_i$ of its distances, the second far from them, and all after it near
    the second, third, ... that are there: with probabilities in proportion to $e^{-b s_i}$,
    $e^{b s_i}$ and $e^{-b (r_{i2} + r_{i3} / 2 + \dots)}$ with up to d terms, which tell places
    apart. The density of shapes has the probability of the order as a factor, times the number of
    orders, so that Z is the same. Of a system with n! equal modes, few are left.

    Attributes:
        system: The system.
        sharpness: How likely the likely order is, b in units of 1 over distance.
    """

    system: ParticleSystem
    sharpness: float = 10.0

    def __post_init__(self):
        check_instance("system", self.system, ParticleSystem, "pass one, such as DoubleWell()")
        keep(self, sharpness=check_real("sharpness", self.sharpness))
        if not 0 <= self.sharpness < math.inf:
            raise ConfigurationError(f"sharpness {self.sharpness} must be finite, not negative")
        if self.system.num_particles <= self.system.space_dim:
            raise ConfigurationError(
                f"{self.system.num_particles} particles do not fill {self.system.space_dim}"
                " dimensions: a shape needs more particles than dimensions"
            )

    @property
    def dim(self) -> int:
        """Size of the vectors: $(n - 1) d - d (d - 1) / 2$."""
        return len(self._entries()[0])

    @property
    def supports(self) -> Sequence[Support]:
        """Where their numbers lie: those of the diagonal but the last are positive."""
        rows, columns = self._entries().tolist()
        last = self.system.space_dim - 1
        pairs = zip(rows, columns, strict=True)
        return [HalfLine() if i == j < last else Real() for i, j in pairs]

    def energy(self, x: Shapes) -> PerExample:
        """Minus the log-density of shapes, but for the same constant as that of the system."""
        positions = self.positions(x)
        size = self.system.space_dim
        diagonal = self._steps(x).diagonal(dim1=1, dim2=2)
        powers = size - 1 - torch.arange(size, dtype=x.dtype, device=x.device)
        return (
            self.system.potential(positions) / self.system.temperature
            - (powers * diagonal.abs().log()).sum(dim=1)
            - logsigmoid(self.sharpness * diagonal[:, -1])
            - self._log_volume
            - self._log_order(positions)
        )

    def positions(self, x: Shapes) -> Particles:
        """The positions of particles, whose mean is 0."""
        return self.system.positions(self._steps(x).flatten(1))

    def distances(self, x: Shapes) -> Float[Tensor, "num pairs"]:
        """The distance of each pair of particles."""
        return pair_distances(self.positions(x))

    def drawn(self, vectors: Vectors, source: RandomSource = None) -> Shapes:
        """The shapes of vectors of the system, with particles in an order that is drawn."""
        positions = self.system.positions(vectors)
        order = self._drawn_order(positions, source)[:, :, None].expand_as(positions)
        steps = self.system.vectors(positions.gather(1, order))
        shape = self.system.num_particles - 1, self.system.space_dim
        lower = torch.linalg.qr(steps.unflatten(1, shape).mT).R.mT
        diagonal = lower.diagonal(dim1=1, dim2=2)
        sign = diagonal.sign()
        like = source, lower.dtype, lower.device
        mirrored = uniform(sign[:, -1].shape, *like, "mirror") > torch.sigmoid(
            self.sharpness * diagonal[:, -1].abs()
        )
        sign[:, -1] *= torch.where(mirrored, -1.0, 1.0)
        lower = lower * sign[:, None]
        rows, columns = self._entries()
        return lower[:, rows, columns]

    def _entries(self) -> Int[Tensor, "two numbers"]:
        """Where in L the numbers of a vector are."""
        return torch.tril_indices(self.system.num_particles - 1, self.system.space_dim)

    def _steps(self, x: Shapes) -> Float[Tensor, "num steps space"]:
        """The matrices L."""
        lower = x.new_zeros(len(x), self.system.num_particles - 1, self.system.space_dim)
        rows, columns = self._entries()
        lower[:, rows, columns] = x
        return lower

    @property
    def _log_volume(self) -> float:
        """The logarithm of the volume of all orthogonal matrices Q."""
        sizes = range(1, self.system.space_dim + 1)
        return sum(math.log(2) + i / 2 * math.log(math.pi) - math.lgamma(i / 2) for i in sizes)

    def _log_order(self, positions: Particles) -> PerExample:
        """Log-probability of the order that particles are in, times the number of orders."""
        distance = distance_matrix(positions)
        total = positions.new_zeros(len(positions))
        for place in range(self.system.num_particles):
            left = self._preference(distance, distance.unbind(dim=1)[:place])[:, place:]
            total = total + left.log_softmax(dim=1)[:, 0] + math.log(left.shape[1])
        return total

    def _drawn_order(self, positions: Particles, source: RandomSource) -> Int[Tensor, "num n"]:
        """Draw an order: each by the largest of sums of preferences and Gumbel noise."""
        distance = distance_matrix(positions)
        draws = uniform(distance.shape, source, distance.dtype, distance.device, "order")
        noise = -(-draws.clamp_min(torch.finfo(draws.dtype).tiny).log()).log()
        order, placed = [], []
        for gumbel in noise.unbind(dim=1):
            wanted = self._preference(distance, placed) + gumbel
            for earlier in order:
                wanted = wanted.scatter(1, earlier, -math.inf)
            order.append(wanted.argmax(dim=1, keepdim=True))
            placed.append(distance.take_along_dim(order[-1][:, None], dim=1)[:, 0])
        return torch.cat(order, dim=1)

    def _preference(
        self, distance: Float[Tensor, "num n n"], placed: Sequence[Distances]
    ) -> Distances:
        """Unnormalized log-probabilities of every particle to be the next.

        Args:
            distance: Between all particles.
            placed: The distances to each that is in order.
        """
        if len(placed) < 2:
            total = distance.sum(dim=1)
            return self.sharpness * (total if placed else -total)
        near = placed[1 : self.system.space_dim + 1]
        return -self.sharpness * torch.stack([row / 2**i for i, row in enumerate(near)]).sum(dim=0)
