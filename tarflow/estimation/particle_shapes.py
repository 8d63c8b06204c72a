"""Shapes of particle systems: vectors without what rigid motions and names of particles add."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from tarflow.arguments import check_instance, check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.estimation.particles import Particles, ParticleSystem, Vectors, pair_distances
from tarflow.flows.supports import HalfLine, Real, Support
from tarflow.randomness import RandomSource, uniform
from tarflow.registry import Part

PerExample = Float[Tensor, " num"]
Shapes = Float[Tensor, "num numbers"]


@dataclass(frozen=True)
class ParticleShapes(Part):
    r"""The density of a system's shapes: each is turned in one way, its particles in some order.

    The steps X of `ParticleSystem` have rows of d numbers. $X = L Q$ with an orthogonal Q and a
    lower trapezoidal L with a positive diagonal; the entries of L are the vector x of a shape. As
    $dX = \prod_i l_{ii}^{d - i} \, dL \, dQ$, its density is that of X, times this product and the
    volume of all Q.

    Particles are put in order at random, but mostly so that the first is near all others, by the
    sum $s_i$ of its distances, and those after it are far: the first with probabilities in
    proportion to $e^{-b s_i}$, the next `num_sorted` one after the other to $e^{b s_i}$, and the
    rest in any order. The density of shapes has the probability of the order as a factor, times
    the number of orders, so that Z is the same. Of a system with n! equal modes, few are left.

    Attributes:
        system: The system.
        num_sorted: How many particles after the first are likely to be far.
        sharpness: How likely, b in units of 1 over distance.
    """

    system: ParticleSystem
    num_sorted: int = 1
    sharpness: float = 30.0

    def __post_init__(self):
        check_instance("system", self.system, ParticleSystem, "pass one, such as DoubleWell()")
        keep(self, num_sorted=check_integer("num_sorted", self.num_sorted, least=0))
        keep(self, sharpness=check_real("sharpness", self.sharpness))
        if self.num_sorted >= self.system.num_particles:
            raise ConfigurationError(
                f"num_sorted {self.num_sorted} must be less than the"
                f" {self.system.num_particles} particles"
            )
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
        count, score = self.system.num_particles, self._score(positions)
        log_prob = (-score).log_softmax(dim=1)[:, 0] + math.log(count)
        for index in range(1, self.num_sorted + 1):
            log_prob = log_prob + score[:, index:].log_softmax(dim=1)[:, 0]
            log_prob = log_prob + math.log(count - index)
        return log_prob

    def _drawn_order(self, positions: Particles, source: RandomSource) -> Int[Tensor, "num n"]:
        """Draw an order: by the largest of sums of scores and Gumbel noise."""
        like = source, positions.dtype, positions.device
        score = self._score(positions)
        noise = [
            -(-uniform(score.shape, *like, purpose).log()).log() for purpose in ("first", "rest")
        ]
        first = (noise[0] - score).argmax(dim=1, keepdim=True)
        rest = (noise[1] + score).scatter(1, first, math.inf)
        order = rest.argsort(dim=1, descending=True)
        free = order[:, self.num_sorted + 1 :]
        keys = uniform(free.shape, *like, "free").argsort(dim=1)
        return torch.cat([order[:, : self.num_sorted + 1], free.gather(1, keys)], dim=1)

    def _score(self, positions: Particles) -> Float[Tensor, "num n"]:
        """The sum of the distances of each particle, times the sharpness."""
        first, second = torch.triu_indices(*[positions.shape[1]] * 2, offset=1)
        total = positions.new_zeros(positions.shape[:2])
        distance = pair_distances(positions)
        total = total.index_add(1, first.to(distance.device), distance)
        return self.sharpness * total.index_add(1, second.to(distance.device), distance)
