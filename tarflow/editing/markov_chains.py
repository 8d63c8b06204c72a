"""Markov chains over data that a flow finds likely and an observation allows."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tarflow.arguments import check_integer, check_real, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.randomness import RandomSource, normal, uniform

ANNEALED = 0.75
"""Fraction of burn-in over which the likelihood sharpens; the rest adapts to the final one."""

Numbers = Float[Tensor, " batch"]
"""A number for each example."""


@dataclass(frozen=True)
class Posterior:
    r"""The density $p(x) \, N(x_\text{obs}; M x, \sigma^2)$ of data that is observed in part.

    Attributes:
        flow: The prior density p.
        observed: The data; finite, also where it is not observed.
        mask: Where it is observed.
        noise_std: Standard deviation of the observations of each example.
    """

    flow: Flow
    context: Context
    observed: Float[Tensor, "batch ..."]
    mask: Bool[Tensor, "batch ..."]
    noise_std: Numbers
    options: DecodeOptions

    def decode(self, z: Float[Tensor, "batch length patch_dim"]) -> Float[Tensor, "batch ..."]:
        """Map noise to data; a proposal that is not finite is rejected later."""
        return self.flow.attempt(z, self.context, options=self.options).x

    def squared_deviation(self, x: Float[Tensor, "batch ..."]) -> Numbers:
        """Sum of the squared deviations from what is observed."""
        return ((x - self.observed) * self.mask).square().flatten(1).sum(dim=1)

    def rms(self, squared_deviation: Numbers) -> Numbers:
        """Root of the mean over observed values; 0 where there are none."""
        return (squared_deviation / self.mask.flatten(1).sum(dim=1).clamp(min=1)).sqrt()

    def log_likelihood(self, x: Float[Tensor, "batch ..."]) -> Numbers:
        """Log-likelihood of what is observed, in nats, up to a constant."""
        return -self.squared_deviation(x) / (2 * self.noise_std**2)

    def log_density_and_gradient(
        self, x: Float[Tensor, "batch ..."]
    ) -> tuple[Numbers, Float[Tensor, "batch ..."]]:
        """Logarithm of the density up to a constant, in nats, and its gradient."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_density = self.flow.log_prob(x, self.context) + self.log_likelihood(x)
            gradient = torch.autograd.grad(log_density.sum(), x)[0]
        return log_density.detach(), gradient


@dataclass(frozen=True)
class ChainState:
    """Where chains are: what the sampler moves, and the data that belongs to it."""

    position: Tensor
    x: Tensor

    def moved(self, accepted: Bool[Tensor, " batch"], proposal: "ChainState") -> "ChainState":
        """The proposal where it is accepted, and this state elsewhere."""
        position = torch.where(_rows(accepted, self.position), proposal.position, self.position)
        return ChainState(position, torch.where(_rows(accepted, self.x), proposal.x, self.x))


@dataclass(frozen=True)
class MarkovKernel(ABC):
    """A kind of Metropolis-Hastings step.

    Attributes:
        burn_in: Number of steps before states count.
        num_steps: Number of steps after that.
        target_acceptance: Fraction of proposals to get accepted; burn-in adapts step sizes to it.
        first_step_size: Step size before that.
    """

    burn_in: int
    num_steps: int
    target_acceptance: float
    first_step_size: float
    largest_step_size: ClassVar[float] = math.inf

    def __post_init__(self):
        keep(self, burn_in=check_integer("burn_in", self.burn_in, least=0))
        keep(self, num_steps=check_integer("num_steps", self.num_steps, least=1))
        for name, limit in (("target_acceptance", 1.0), ("first_step_size", math.inf)):
            value = check_real(name, getattr(self, name))
            keep(self, **{name: value})
            if not 0 < value < limit:
                raise ConfigurationError(f"{name} {value} is out of range: 0 < {name} < {limit}")

    def start(
        self, posterior: Posterior, z: Float[Tensor, "batch length patch_dim"]
    ) -> ChainState:
        """The state that belongs to noise z; by default, what moves is that noise."""
        return ChainState(z, posterior.decode(z))

    @abstractmethod
    def propose(
        self, posterior: Posterior, state: ChainState, step_size: Numbers, source: RandomSource
    ) -> tuple[ChainState, Numbers]:
        """Another state, and the logarithm of its Metropolis-Hastings ratio.

        Where the ratio is not a number, the proposal is rejected.
        """


@dataclass(frozen=True)
class CrankNicolson(MarkovKernel):
    r"""$z' = \sqrt{1 - b^2} \, z + b \epsilon$ in base space (arXiv 1202.0709).

    This preconditioned Crank-Nicolson proposal leaves the prior invariant for every step size b,
    so the ratio is that of the likelihoods. A step decodes once and takes no gradient; where much
    is observed, steps are short and chains mix slowly (docs/experiments.md).
    """

    burn_in: int = 2000
    num_steps: int = 2000
    target_acceptance: float = 0.25
    first_step_size: float = 0.5
    largest_step_size = 1.0

    def propose(
        self, posterior: Posterior, state: ChainState, step_size: Numbers, source: RandomSource
    ) -> tuple[ChainState, Numbers]:
        b = _rows(step_size, state.position)
        draw = posterior.flow.base.sample(len(b), source)
        proposal = self.start(posterior, (1 - b**2).sqrt() * state.position + b * draw)
        return proposal, posterior.log_likelihood(proposal.x) - posterior.log_likelihood(state.x)


@dataclass(frozen=True)
class Hamiltonian(MarkovKernel):
    """Hamiltonian Monte Carlo in data space (arXiv 1206.1901).

    A step follows the gradient of the density for `num_leapfrog` forward and backward passes, each
    parallel over positions, and decodes nothing. Step sizes are in units of the data; that of a
    trajectory is up to a fifth smaller or larger, lest trajectories return to where they began.
    """

    burn_in: int = 100
    num_steps: int = 100
    target_acceptance: float = 0.7
    first_step_size: float = 0.05
    num_leapfrog: int = 16

    def __post_init__(self):
        super().__post_init__()
        keep(self, num_leapfrog=check_integer("num_leapfrog", self.num_leapfrog, least=1))

    def start(
        self, posterior: Posterior, z: Float[Tensor, "batch length patch_dim"]
    ) -> ChainState:
        x = posterior.decode(z)
        return ChainState(x, x)

    def propose(
        self, posterior: Posterior, state: ChainState, step_size: Numbers, source: RandomSource
    ) -> tuple[ChainState, Numbers]:
        x, like = state.x, (source, state.x.dtype, state.x.device)
        step = _rows(step_size * (0.8 + 0.4 * uniform(step_size.shape, *like, "trajectory")), x)
        momentum = first_momentum = normal(x.shape, *like, "momentum")
        log_density, gradient = posterior.log_density_and_gradient(x)
        first_log_density = log_density
        for _ in range(self.num_leapfrog):
            momentum = momentum + step / 2 * gradient
            x = x + step * momentum
            log_density, gradient = posterior.log_density_and_gradient(x)
            momentum = momentum + step / 2 * gradient
        gained_energy = (momentum.square() - first_momentum.square()).flatten(1).sum(dim=1) / 2
        return ChainState(x, x), log_density - first_log_density - gained_energy


@dataclass(frozen=True)
class Chain:
    """A Markov chain per example that leaves a posterior invariant."""

    sampler: MarkovKernel
    posterior: Posterior
    source: RandomSource

    def step(
        self, state: ChainState, step_size: Numbers
    ) -> tuple[ChainState, Bool[Tensor, " batch"]]:
        """Propose, and accept or not; also return which proposals were accepted."""
        proposal, log_ratio = self.sampler.propose(self.posterior, state, step_size, self.source)
        like = self.source, log_ratio.dtype, log_ratio.device
        accepted = uniform(log_ratio.shape, *like, "acceptance").log() < log_ratio
        return state.moved(accepted, proposal), accepted

    def burn_in(self, state: ChainState, ticks: Iterable[int]) -> tuple[ChainState, Numbers]:
        """Shrink the noise from the deviation of a state, and adapt step sizes; return these."""
        std = self.posterior.noise_std
        squared_deviation = self.posterior.squared_deviation(state.x)
        first_std = torch.maximum(self.posterior.rms(squared_deviation), std)
        step_size = torch.full_like(std, self.sampler.first_step_size)
        last = ANNEALED * self.sampler.burn_in
        for done, _ in enumerate(ticks):
            annealed = first_std * (std / first_std) ** min(1.0, done / last)
            posterior = replace(self.posterior, noise_std=annealed)
            state, accepted = replace(self, posterior=posterior).step(state, step_size)
            # The decision, not its probability: rounding then does not add up in step sizes.
            surplus = accepted.to(std.dtype) - self.sampler.target_acceptance
            step_size = step_size * (surplus / (done + 1) ** 0.5).exp()
            step_size = step_size.clamp(max=self.sampler.largest_step_size)
        return state, step_size


def _rows(values: Tensor, examples: Tensor) -> Tensor:
    """A number per example, in a shape that broadcasts against the examples."""
    return values.view(-1, *(1,) * (examples.ndim - 1))
