"""Samples of a density from its energy alone: many Markov chains side by side."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.shapes import Examples
from tarflow.randomness import RandomSource
from tarflow.sampling.importance import Energy
from tarflow.sampling.langevin import LangevinState, adapted


@dataclass(frozen=True)
class ChainSamples:
    """What chains have visited.

    Attributes:
        x: Their states after every `thinning` steps, one chain in each column.
        energy: The energies of these, in nats.
        acceptance: Share of proposals that were accepted.
        step_size: The scale of proposals, which did not change.
    """

    x: Float[Tensor, "draws chains ..."]
    energy: Float[Tensor, "draws chains"]
    acceptance: float
    step_size: float

    @property
    def samples(self) -> Examples:
        """All states, one in each row."""
        return self.x.flatten(0, 1)

    @property
    def split_r_hat(self) -> float:
        """How far the energies of half chains differ: near 1 where chains have converged.

        It is the split R-hat of Gelman et al., Bayesian Data Analysis, 3rd edition, section 11.4.
        """
        return split_r_hat(self.energy)


@dataclass(frozen=True)
class LangevinChains:
    r"""Metropolis-adjusted Langevin chains that leave the density $e^{-E(x)} / Z$ invariant.

    In the warm-up the energy counts ever more, from `first_share` on, so that chains reach modes
    apart from where they start; and the size of steps is adapted. After it nothing is.

    Attributes:
        warm_up: Number of steps before states count.
        num_draws: Number of states of each chain that are kept.
        thinning: Number of steps from one of them to the next.
        first_share: What the energy is multiplied by at first.
        first_step_size: The scale of the first proposals, in units of x.
        target_acceptance: Share of proposals to get accepted.

    Raises:
        ConfigurationError: A number is out of range.
    """

    warm_up: int = 2000
    num_draws: int = 20
    thinning: int = 100
    first_share: float = 0.1
    first_step_size: float = 0.1
    target_acceptance: float = 0.6

    def __post_init__(self):
        for name, least in (("warm_up", 0), ("num_draws", 1), ("thinning", 1)):
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        limits = {"first_share": 1.0, "first_step_size": math.inf, "target_acceptance": 1.0}
        for name, limit in limits.items():
            value = check_real(name, getattr(self, name))
            keep(self, **{name: value})
            if not (0 < value < limit or value == limit == 1):
                raise ConfigurationError(f"{name} {value} must be positive and at most {limit}")

    def __call__(
        self, energy: Energy, start: Examples, source: RandomSource = None
    ) -> ChainSamples:
        """Run a chain from each of some examples.

        Args:
            energy: Maps a batch of examples to their energies, in nats; differentiable.
            start: Where chains start, of finite energies.
            source: Where draws come from.

        Raises:
            ConfigurationError: A chain starts where energy or gradient are not finite.
        """
        size, state = self.first_step_size, LangevinState.at(lambda x: -energy(x), start)
        if not (state.log_density.isfinite().all() and state.gradient.isfinite().all()):
            raise ConfigurationError("an energy or its gradient is not finite where chains start")
        before = 1.0
        for step in range(self.warm_up):
            share = min(1.0, self.first_share + 2 * step / self.warm_up)
            state, before = state.times(share / before), share
            state, accepted = state.stepped(
                lambda x, share=share: -share * energy(x), start.new_tensor(size), source
            )
            size = adapted(size, accepted, self.target_acceptance, (1 + step) ** -0.5)
        return self._drawn(energy, state.x, size, source)

    def _drawn(
        self, energy: Energy, x: Examples, size: float, source: RandomSource
    ) -> ChainSamples:
        """Take the steps that count."""
        state = LangevinState.at(lambda x: -energy(x), x)
        draws, accepted = [], 0.0
        for step in range(1, self.num_draws * self.thinning + 1):
            state, moved = state.stepped(lambda x: -energy(x), x.new_tensor(size), source)
            accepted += float(moved.double().mean()) / (self.num_draws * self.thinning)
            if step % self.thinning == 0:
                draws.append(state)
        x = torch.stack([each.x for each in draws])
        energies = -torch.stack([each.log_density for each in draws])
        return ChainSamples(x, energies, accepted, size)


def split_r_hat(values: Float[Tensor, "draws chains"]) -> float:
    """The split R-hat of a number along chains."""
    half = len(values) // 2
    if half < 2:
        raise ConfigurationError(f"{len(values)} draws of each chain are too few: keep 4 or more")
    parts = torch.cat([values[:half], values[-half:]], dim=1).double()
    within = parts.var(dim=0).mean()
    between = parts.mean(dim=0).var()
    return float(((half - 1) / half + between / within).sqrt())
