"""How a flow is fitted to a density that is known but for a factor, without samples of it."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from tarflow.arguments import check_integer, check_real, keep, keep_positive
from tarflow.errors import ConfigurationError, DataError
from tarflow.estimation.likelihood_fit import LARGEST_NORM, WARM_UP, follow, seed_from, told_of
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample, Sequences
from tarflow.sampling.importance import Energy, importance_weights
from tarflow.training.optimizers import muon, warmup_cosine

MOST_SKIPPED = 50
"""Number of steps in a row that are not finite, after which a fit is lost."""


@dataclass
class ReverseHistory:
    """What a fit to an energy was like.

    Attributes:
        divergence: Means of log q(x) + E(x) over the samples of a step, in nats, at every look:
            the divergence less the logarithm of the normalizer Z, while the energy counts whole.
        effective_sample_size: That of importance weights at every look, as a share of samples. Of
            a mode that the flow never draws from it does not tell.
        steps: Number of steps.
        skipped: Number of steps whose gradient was not finite, and which changed nothing.
    """

    divergence: list[float] = field(default_factory=list)
    effective_sample_size: list[float] = field(default_factory=list)
    steps: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class ReverseFit:
    r"""Fits a flow q to the density $e^{-E(x)} / Z$ by the divergence KL(q, p), from E alone.

    Muon and AdamW minimize the mean of $\log q(x) + E(x)$ over the flow's own samples, with the
    gradient of `reverse_loss`; the exponential average of weights is kept. This divergence is
    blind to modes that the flow never draws from. So the energy counts little at first, and more
    from step to step. A mode may get lost on the way all the same, and then does not come back:
    with several, fit a hotter system, and take its samples on with `annealed_samples`.

    Attributes:
        batch_size: Number of samples in a step.
        lr: Peak learning rate, which rises and then falls along a cosine over `max_steps`.
        max_steps: Number of steps.
        first_share: What the energy is multiplied by at first; 1 for no annealing.
        annealed: Share of steps over which that rises to 1, evenly.
        energy_limit: Energies above it count as it and the logarithm of what they exceed it by, in
            the fit alone: near a pole, as that of Lennard-Jones, they say nothing else.
        look_every: Number of steps between two looks.
        num_looked: Number of samples whose weights are looked at; 0 for none.
        progress: Whether a bar tells of it.

    Raises:
        ConfigurationError: A number is out of range.
    """

    batch_size: int = 256
    lr: float = 2e-3
    max_steps: int = 2000
    first_share: float = 0.1
    annealed: float = 0.5
    energy_limit: float = math.inf
    look_every: int = 100
    num_looked: int = 1000
    progress: bool = False

    def __post_init__(self):
        for name in ("batch_size", "max_steps", "look_every"):
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        keep(self, num_looked=check_integer("num_looked", self.num_looked, least=0))
        keep_positive(self, "lr")
        for name in ("first_share", "annealed", "energy_limit"):
            keep(self, **{name: check_real(name, getattr(self, name))})
        if not 0 < self.first_share <= 1:
            raise ConfigurationError(f"first_share {self.first_share} must be in (0, 1]")
        if not 0 <= self.annealed <= 1:
            raise ConfigurationError(f"annealed {self.annealed} must be in [0, 1]")
        if math.isnan(self.energy_limit):
            raise ConfigurationError("energy_limit is NaN: give a number, or infinity for none")

    def __call__(
        self,
        flow: Flow,
        energy: Energy,
        context: ContextLike = None,
        source: torch.Generator | None = None,
    ) -> ReverseHistory:
        """Fit a flow, in place, and leave it ready to evaluate. Dropout is off.

        Args:
            flow: The flow.
            energy: Maps a batch of examples to their energies, in nats; differentiable.
            context: What all samples are conditioned on, as for one of them or all of a batch.
            source: Where draws come from. By default torch's own generator seeds one.

        Raises:
            DataError: Steps were not finite, one after the other.
        """
        source = torch.Generator().manual_seed(seed_from(None)) if source is None else source
        history, average, stuck = ReverseHistory(), copy.deepcopy(flow.eval()), 0
        optimizer = muon(flow.named_parameters(), lr=self.lr)
        schedule = warmup_cosine(optimizer, self.max_steps, min(WARM_UP, self.max_steps // 10))
        with told_of(self.max_steps, self.progress) as tell:
            for share in self._shares():
                z = flow.base.sample(self.batch_size, source)
                read = flow.sampling_context(context, z)
                loss = reverse_loss(flow, z, read, lambda x, s=share: s * self._limited(energy(x)))
                history.steps += 1
                if self._step(flow, optimizer, loss.mean()):
                    schedule.step()
                    stuck = 0
                else:
                    history.skipped += 1
                    stuck += 1
                if stuck == min(MOST_SKIPPED, self.max_steps):
                    raise DataError(
                        f"the gradient was not finite in {stuck} steps in a row, up to step"
                        f" {history.steps}: set energy_limit, lower lr, or let the flow begin"
                        " where energies are finite"
                    )
                follow(average, flow, history.steps)
                if history.steps % self.look_every == 0 or history.steps == self.max_steps:
                    history.divergence.append(float(loss.detach().mean()))
                    self._look(average, energy, context, history, source)
                found = history.effective_sample_size
                tell(history.steps, f"effective {found[-1]:.1%}" if found else "")
        flow.load_state_dict(average.state_dict())
        return history

    def _shares(self) -> Iterator[float]:
        """What the energy is multiplied by at every step."""
        rising = max(1.0, self.annealed * self.max_steps)
        for step in range(self.max_steps):
            yield min(1.0, self.first_share + (1 - self.first_share) * step / rising)

    def _limited(self, energy: Tensor) -> Tensor:
        """Energies that rise slowly above the limit."""
        above = (energy - self.energy_limit).clamp(min=0)
        return energy.clamp(max=self.energy_limit) + above.log1p()

    def _step(self, flow: Flow, optimizer: Optimizer, loss: Tensor) -> bool:
        """Take a step; whether it was finite."""
        optimizer.zero_grad()
        (loss / flow.num_dims).backward()
        norm = nn.utils.clip_grad_norm_(flow.parameters(), LARGEST_NORM)
        if not norm.isfinite():
            return False
        optimizer.step()
        return True

    def _look(
        self,
        flow: Flow,
        energy: Energy,
        context: ContextLike,
        history: ReverseHistory,
        source: torch.Generator,
    ) -> None:
        """See how well importance weights do."""
        if self.num_looked:
            found = importance_weights(flow, energy, self.num_looked, context, source=source)
            history.effective_sample_size.append(found.effective_sample_size)


def reverse_loss(flow: Flow, z: Sequences, context: Context, energy: Energy) -> PerExample:
    r"""$\log q(x) + E(x)$ of the samples x of noise, with a gradient of little variance.

    In $\log q(x)$ the weights do not count, but x does ("sticking the landing", arXiv 1703.09194):
    what is left out has the mean 0, and the gradient vanishes sample by sample where q is p.

    Args:
        flow: The flow q.
        z: Noise, as its base distribution draws it.
        context: What the samples are conditioned on.
        energy: Maps samples to energies, in nats.
    """
    x = flow.attempt(z, context).x
    density = LogDensityOf(flow)
    weights = {name: each.detach() for name, each in density.named_parameters()}
    return functional_call(density, weights, (x, context)) + energy(x)


class LogDensityOf(nn.Module):
    """The log-density of a flow as a module, which torch can call with other weights."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(self, x: Examples, context: Context) -> PerExample:
        """The log-density of points, in nats."""
        return self.flow.point_log_prob(x, context)
