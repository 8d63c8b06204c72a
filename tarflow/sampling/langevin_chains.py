"""Samples of a density from its energy alone: many Markov chains side by side."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tarflow.arguments import check_integer, keep, keep_positive
from tarflow.errors import ConfigurationError
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import uniform
from tarflow.sampling.importance import Energy
from tarflow.sampling.langevin import LangevinState, adapted, per_row


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

    Beside each chain run others, for which the energy counts less, down to `first_share`; these
    cross from mode to mode, and neighbours swap states (replica exchange). In the warm-up the
    sizes of steps are adapted, and not after it.

    Attributes:
        warm_up: Number of steps before states count.
        num_draws: Number of states of each chain that are kept.
        thinning: Number of steps from one of them to the next.
        num_levels: Number of chains side by side, the first of which counts; 1 for no swaps.
        first_share: What the energy is multiplied by in the last of them.
        first_step_size: The scale of the first proposals, in units of x.
        target_acceptance: Share of proposals to get accepted.

    Raises:
        ConfigurationError: A number is out of range.
    """

    warm_up: int = 1000
    num_draws: int = 20
    thinning: int = 100
    num_levels: int = 6
    first_share: float = 0.1
    first_step_size: float = 0.1
    target_acceptance: float = 0.6

    def __post_init__(self):
        leasts = {"warm_up": 0, "num_draws": 1, "thinning": 1, "num_levels": 1}
        for name, least in leasts.items():
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        keep_positive(self, "first_step_size")
        keep_positive(self, "first_share", "target_acceptance", below=1.0)

    def __call__(
        self, energy: Energy, start: Examples, source: torch.Generator | None = None
    ) -> ChainSamples:
        """Run a chain from each of some examples.

        Args:
            energy: Maps a batch of examples to their energies, in nats; differentiable.
            start: Where chains start, of finite energies.
            source: Where draws come from.

        Raises:
            ConfigurationError: A chain starts where energy or gradient are not finite.
        """
        ladder = TemperatureLadder(energy, self._shares(start), len(start), source)
        state = LangevinState.at(ladder.log_density, torch.cat([start] * self.num_levels))
        if not (state.log_density.isfinite().all() and state.gradient.isfinite().all()):
            raise ConfigurationError("an energy or its gradient is not finite where chains start")
        size = start.new_full((self.num_levels,), self.first_step_size)
        for step in range(self.warm_up):
            state, accepted = ladder.stepped(state, size, step)
            size = adapted(size, accepted, self.target_acceptance, (1 + step) ** -0.5)
        total, draws = self.num_draws * self.thinning, []
        acceptance = torch.zeros_like(size)
        for step in range(1, total + 1):
            state, accepted = ladder.stepped(state, size, step)
            acceptance += accepted.to(size.dtype).mean(dim=1) / total
            if step % self.thinning == 0:
                draws.append((state.x[: len(start)], -state.log_density[: len(start)]))
        x, energies = (torch.stack(each) for each in zip(*draws, strict=True))
        return ChainSamples(x, energies, float(acceptance[0]), float(size[0]))

    def _shares(self, like: Tensor) -> Float[Tensor, " levels"]:
        """What the energy is multiplied by, level by level: evenly spaced logarithms."""
        return like.new_tensor(self.first_share) ** torch.linspace(
            0, 1, self.num_levels, dtype=like.dtype, device=like.device
        )


@dataclass(frozen=True)
class TemperatureLadder:
    """Chains at several levels: all of the first level stand first, then all of the next."""

    energy: Energy
    shares: Float[Tensor, " levels"]
    num_chains: int
    source: torch.Generator | None

    def log_density(self, x: Examples) -> PerExample:
        """The logarithm of the density of each row's level, but for a constant."""
        return -self._each(self.shares) * self.energy(x)

    def stepped(
        self, state: LangevinState, size: Float[Tensor, " levels"], step: int
    ) -> tuple[LangevinState, Bool[Tensor, "levels chains"]]:
        """Propose and accept in all rows; then let pairs of levels swap: other ones every time."""
        scale = per_row(self._each(size), state.x)
        state, accepted = state.stepped(self.log_density, scale, self.source)
        return self.swapped(state, step % 2), accepted.view(-1, self.num_chains)

    def swapped(self, state: LangevinState, first: int) -> LangevinState:
        """Let every other pair of neighbours, from a first one on, swap their states."""
        share = self._each(self.shares)
        rows = torch.arange(len(share), device=share.device)
        level = rows // self.num_chains
        is_lower = (level - first) % 2 == 0
        partner = rows + torch.where(is_lower, self.num_chains, -self.num_chains)
        partner = partner.where((partner >= 0) & (partner < len(rows)), rows)
        energy = -state.log_density / share
        ratio = (share - share[partner]) * (energy - energy[partner])
        draw = uniform(share.shape, self.source, share.dtype, share.device, "swap")
        swaps = draw[torch.minimum(rows, partner)].log() < ratio
        factor = share / share[partner]
        other = LangevinState(
            state.x[partner],
            factor * state.log_density[partner],
            per_row(factor, state.x) * state.gradient[partner],
        )
        return state.replaced(swaps, other)

    def _each(self, values: Float[Tensor, " levels"]) -> PerExample:
        """A value of each level for each of its rows."""
        return values.repeat_interleave(self.num_chains)


def split_r_hat(values: Float[Tensor, "draws chains"]) -> float:
    """The split R-hat of a number along chains."""
    half = len(values) // 2
    if half < 2:
        raise ConfigurationError(f"{len(values)} draws of each chain are too few: keep 4 or more")
    parts = torch.cat([values[:half], values[-half:]], dim=1).double()
    within = parts.var(dim=0).mean()
    between = parts.mean(dim=0).var()
    return float(((half - 1) / half + between / within).sqrt())
