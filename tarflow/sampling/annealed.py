"""Annealed sequential Monte Carlo: from samples of one density to those of another, in stages."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.arguments import check_integer, keep, keep_positive
from tarflow.errors import ConfigurationError
from tarflow.flows.context import ContextLike
from tarflow.flows.decoding import DecodeKeywords, DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.sampling.importance import Energy, importance_weights, resampled_rows
from tarflow.sampling.langevin import LangevinState, LogDensity, adapted

HALVINGS = 60
"""How often the interval is halved in which the next point of the path lies."""
RATE = 0.5
"""How fast step sizes follow the share of accepted proposals."""


@dataclass(frozen=True)
class AnnealedSample:
    r"""Samples of about the density $e^{-E(x)} / Z$, all of the same weight.

    Attributes:
        x: The samples.
        origin: From which of the first samples each descends.
        log_normalizer: An estimate of $\log Z$, in nats.
        shares: Where on the path from the first density each stage was; the last is 1.
        acceptance: Share of the proposals of each stage that were accepted.
    """

    x: Examples
    origin: Int[Tensor, " batch"]
    log_normalizer: float
    shares: tuple[float, ...] = ()
    acceptance: tuple[float, ...] = ()

    @property
    def effective_sample_size(self) -> float:
        r"""$n^2 / \sum_f n_f^2$ for families of $n_f$ samples of one origin, as a share of n.

        It takes all of a family for the same sample. Moves have driven them apart, so this is the
        least that the samples are worth.
        """
        sizes = self.origin.bincount().double()
        return float(sizes.sum() / sizes.square().sum())


@dataclass(frozen=True)
class Annealing:
    r"""How samples go from a density q to a density p: through $q^{1 - s} \, p^s$ with s up to 1.

    Attributes:
        kept: The effective sample size that the weights of a stage have, as a share; the higher it
            is, the more stages there are.
        num_moves: Number of Metropolis-adjusted Langevin steps in every stage.
        first_step_size: The scale of their proposals at first, in units of the standard deviation
            of each number of an example.
        target_acceptance: Share of proposals to get accepted; the scale is adapted to it.

    Raises:
        ConfigurationError: A number is out of range.
    """

    kept: float = 0.7
    num_moves: int = 10
    first_step_size: float = 0.2
    target_acceptance: float = 0.6

    def __post_init__(self):
        keep(self, num_moves=check_integer("num_moves", self.num_moves, least=0))
        keep_positive(self, "first_step_size")
        keep_positive(self, "kept", "target_acceptance", below=1.0)


@torch.no_grad()
def annealed_samples(
    flow: Flow,
    energy: Energy,
    num_samples: int,
    context: ContextLike = None,
    *,
    annealing: Annealing = Annealing(),
    source: torch.Generator | None = None,
    options: DecodeOptions = DecodeOptions(),
    **keywords: Unpack[DecodeKeywords],
) -> AnnealedSample:
    r"""Draw samples of a flow, and turn them into those of the density $e^{-E(x)} / Z$ in stages.

    A sequential Monte Carlo sampler (Del Moral et al. 2006, arXiv cond-mat/0212648). Each stage
    goes as far as the effective sample size of the weights allows, resamples evenly spaced, and
    moves samples by Langevin steps. Where `importance_weights` leaves few samples that count, this
    leaves more, for a price: each step is a forward and a backward pass. Samples move within
    reach of where they are; a mode that the flow never draws from stays empty.

    Example:
        >>> from tarflow import TarFlow
        >>> flow = TarFlow.for_vectors(2, num_layers=1, model_dim=32, head_dim=16)
        >>> found = annealed_samples(flow, lambda x: 8 * x.square().sum(dim=1), 500)
        >>> found.x.shape, found.shares[-1]
        (torch.Size([500, 2]), 1.0)

    Args:
        flow: The flow.
        energy: Maps a batch of examples to their energies, in nats; differentiable.
        num_samples: Number of samples.
        context: What the flow is conditioned on; the same for all samples.
        annealing: How stages and steps are chosen.
        source: Where draws come from.
        options: How to decode, without guidance.
        **keywords: The fields of `DecodeOptions` to be other than in the options.

    Raises:
        ConfigurationError: What `importance_weights` refuses; or all energies are infinite, or
            contexts of samples differ.
    """
    first = importance_weights(
        flow, energy, num_samples, context, source=source, options=options, **keywords
    )
    read = flow.sampling_context(context, first.x)
    if any(bool((part != part[:1]).any()) for part in read.parts.values()):
        raise ConfigurationError("contexts of samples differ: anneal those of one context alone")
    return anneal(
        first.x, lambda x: flow.log_prob(x, read), energy, annealing=annealing, source=source
    )


@torch.no_grad()
def anneal(
    x: Examples,
    log_prob: LogDensity,
    energy: Energy,
    *,
    annealing: Annealing = Annealing(),
    source: torch.Generator | None = None,
) -> AnnealedSample:
    r"""Turn samples of one density into those of another, $e^{-E(x)} / Z$, in stages.

    So `annealed_samples` does with those of a flow. Between a hot density and a cold one, whose
    energies are known, steps need no flow and cost far less.

    Example:
        >>> import torch
        >>> wide = 3 * torch.randn(500, 2)
        >>> found = anneal(
        ...     wide, lambda x: -x.square().sum(dim=1) / 18, lambda x: x.square().sum(dim=1)
        ... )
        >>> found.x.shape, found.shares[-1]
        (torch.Size([500, 2]), 1.0)

    Args:
        x: Samples of the first density.
        log_prob: Maps a batch of examples to its logarithm, in nats; differentiable. If that lacks
            a constant, so does the `log_normalizer` that is found.
        energy: Maps a batch of examples to their energies, in nats; differentiable.
        annealing: How stages and steps are chosen.
        source: Where draws come from.

    Raises:
        ConfigurationError: All energies are infinite, or a sample has no density.
    """
    sample = AnnealedSample(x, torch.arange(len(x), device=x.device), 0.0)
    size = x.new_tensor(annealing.first_step_size)
    path = AnnealedPath(log_prob, energy, annealing, source, size)
    while not sample.shares or sample.shares[-1] < 1:
        sample = path.stage(sample)
    return sample


@dataclass
class AnnealedPath:
    """The densities from one to another, and the steps on the way."""

    log_prob: LogDensity
    energy: Energy
    annealing: Annealing
    source: torch.Generator | None
    step_size: Tensor

    def stage(self, sample: AnnealedSample) -> AnnealedSample:
        """Go on as far as the weights allow, resample and move."""
        log_ratio = (-self.energy(sample.x) - self.log_prob(sample.x)).double()
        if not (log_ratio < math.inf).all():
            raise ConfigurationError(
                "a sample has no density: log_prob must be finite where samples are, and energies"
                " numbers or infinite"
            )
        before = sample.shares[-1] if sample.shares else 0.0
        after = before + self._distance(log_ratio, 1 - before)
        log_weight = (after - before) * log_ratio
        rows = resampled_rows(log_weight.softmax(dim=0), len(log_weight), self.source)
        gain = float(log_weight.logsumexp(dim=0)) - math.log(len(log_weight))
        x, acceptance = self._moved(sample.x[rows], after)
        return AnnealedSample(
            x,
            sample.origin[rows],
            sample.log_normalizer + gain,
            (*sample.shares, after),
            (*sample.acceptance, acceptance),
        )

    def log_density(self, x: Examples, share: float) -> PerExample:
        """That of a point of the path, in nats, but for a constant."""
        there = -share * self.energy(x)
        return there if share == 1 else there + (1 - share) * self.log_prob(x)

    def _distance(self, log_ratio: PerExample, left: float) -> float:
        """How far a stage goes: all that is left, or as its weights get as uneven as they may."""
        possible = log_ratio[log_ratio > -math.inf]
        if not len(possible):
            raise ConfigurationError("all energies are infinite: no sample has a finite one")

        def is_even(distance: float) -> bool:
            weight = (distance * possible).softmax(dim=0)
            return bool(weight.square().sum() * len(weight) * self.annealing.kept <= 1)

        if is_even(left):
            return left
        low, high = 0.0, left
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if is_even(middle) else (low, middle)
        return high  # which is not 0, however steep energies are

    def _moved(self, x: Examples, share: float) -> tuple[Examples, float]:
        """Samples moved at a point of the path, and how many proposals were accepted."""
        density = partial(self.log_density, share=share)
        state, total, count = LangevinState.at(density, x), 0.0, self.annealing.num_moves
        spread = x.std(dim=0)
        spread = spread.where(spread > 0, 1)  # of one value alone: samples may descend from one
        for _ in range(count):
            state, accepted = state.stepped(density, self.step_size * spread, self.source)
            total += float(accepted.double().mean())
            self.step_size = adapted(
                self.step_size, accepted, self.annealing.target_acceptance, RATE
            )
        return state.x, total / max(count, 1)
