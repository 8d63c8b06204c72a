"""Systems of particles that flows are fitted to, and what is known of these."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.estimation.likelihood_fit import LikelihoodFit
from tarflow.estimation.particle_shapes import ParticleShapes
from tarflow.estimation.particles import DoubleWell, LennardJones, pair_distances
from tarflow.flows.flow import Flow
from tarflow.sampling.annealed import Annealing
from tarflow.sampling.langevin_chains import ChainSamples, LangevinChains

SEED = 0
"""Of the chains, which are the same for all runs."""
BINS = 100
"""Of histograms of distances."""

Vectors = Float[Tensor, "num dim"]


@dataclass(frozen=True)
class ParticleTask:
    """A system of particles, and how what is known of it is drawn.

    Attributes:
        shapes: The shapes of the system.
        chains: The Markov chains.
        num_chains: Number of them.
        start_std: Standard deviation of the normal draws that they start from.
        free_std: And of those that a flow is fitted to before it sees the energy: particles hardly
            meet, as in the hot system.
        fit: How flows are fitted to samples.
        hot: The temperature at which a flow is first fitted to the energy.
        cooling: How its samples are cooled.
        reach: The distance at which histograms end.
    """

    shapes: ParticleShapes
    chains: LangevinChains
    num_chains: int
    start_std: float
    free_std: float
    fit: LikelihoodFit
    hot: float
    cooling: Annealing
    reach: float

    def truth(self) -> ChainSamples:
        """What the chains visit, in float64."""
        source = torch.Generator().manual_seed(SEED)
        start = self.start_std * self.normal(self.num_chains, source)
        return self.chains(self.shapes.system.energy, start, source)

    def normal(self, num: int, source: torch.Generator) -> Vectors:
        """Vectors of particles at normal positions, of deviation 1."""
        shape = num, self.shapes.system.dim
        return torch.randn(shape, dtype=torch.float64, generator=source)

    def histogram(
        self, x: Vectors, weight: Float[Tensor, " num"] | None = None
    ) -> Float[Tensor, " bins"]:
        """The shares of distances between particles in bins, of weighted shapes."""
        distance = pair_distances(self.shapes.positions(x.double().cpu()))
        each = torch.ones(len(x)) if weight is None else weight
        found, _ = torch.histogram(
            distance.flatten(),
            bins=BINS,
            range=(0.0, self.reach),
            weight=each.double()[:, None].expand_as(distance).flatten(),
        )
        return found / found.sum()

    def covered(self, flow: Flow, x: Vectors) -> float:
        """The effective sample size as true shapes tell it: near 0 where the flow lacks some.

        It is $1 / (E_p[w] E_p[1 / w])$ with weights w, and 1 for a flow that is the density.
        """
        parts = [-self.shapes.energy(part) - flow.log_prob(part.float()) for part in x.split(1000)]
        log_weight = torch.cat(parts).double()
        total = log_weight.logsumexp(dim=0) + (-log_weight).logsumexp(dim=0)
        return float((2 * math.log(len(x)) - total).exp())


TASKS = {
    "DW-4": ParticleTask(
        ParticleShapes(DoubleWell()),
        LangevinChains(warm_up=500, thinning=50),
        num_chains=500,
        start_std=2.0,
        free_std=2.0,
        fit=LikelihoodFit(max_steps=700, lr=5e-3),
        hot=6.0,
        cooling=Annealing(num_moves=50),
        reach=8.0,
    ),
    "LJ-13": ParticleTask(
        ParticleShapes(LennardJones()),
        LangevinChains(warm_up=2500, num_draws=40, num_levels=5, first_share=0.4),
        num_chains=600,
        start_std=1.0,
        free_std=2.0,
        fit=LikelihoodFit(max_steps=2000, lr=1e-2, look_every=100),
        hot=4.0,
        cooling=Annealing(num_moves=100),
        reach=6.0,
    ),
}
