"""Runs that fit flows to systems of particles: to samples of Markov chains, and to the energy."""

import math
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.ablation.study import StudyRun
from tarflow.estimation.likelihood_fit import LikelihoodFit
from tarflow.estimation.particles import DoubleWell, LennardJones, ParticleSystem
from tarflow.estimation.reverse_fit import ReverseFit
from tarflow.evaluation.provenance import software
from tarflow.flows.vector_flow import VectorFlow
from tarflow.sampling.annealed import Annealing, annealed_samples
from tarflow.sampling.importance import ImportanceSample, importance_weights
from tarflow.sampling.langevin_chains import ChainSamples, LangevinChains

Made = TypeVar("Made")

SEED_OF_TRUTH = 0
"""All runs have the same chains."""
BINS = 100
"""Of histograms of distances."""
REPEATED = 5
"""How often importance weights are drawn; the mean of effective sample sizes counts."""


@dataclass(frozen=True)
class ParticleTask:
    """A system of particles, and how what is known of it is drawn.

    Attributes:
        system: The system.
        chains: The Markov chains.
        num_chains: Number of them; they start at normal draws.
        start_std: The standard deviation of these.
        reach: The distance at which histograms end.
    """

    system: ParticleSystem
    chains: LangevinChains
    num_chains: int
    start_std: float
    reach: float

    def truth(self) -> ChainSamples:
        """What the chains visit, in float64."""
        source = torch.Generator().manual_seed(SEED_OF_TRUTH)
        shape = (self.num_chains, self.system.dim)
        start = self.start_std * torch.randn(shape, dtype=torch.float64, generator=source)
        return self.chains(self.system.energy, start, source)

    def histogram(
        self, x: Float[Tensor, "num dim"], weight: Float[Tensor, " num"] | None = None
    ) -> Float[Tensor, " bins"]:
        """The shares of distances between particles, of weighted examples."""
        distance = self.system.distances(x.double())
        each = torch.ones_like(distance) if weight is None else weight.double()[:, None]
        found, _ = torch.histogram(
            distance.flatten(),
            bins=BINS,
            range=(0.0, self.reach),
            weight=each.expand_as(distance).flatten(),
        )
        return found / found.sum()


TASKS = {
    "DW-4": ParticleTask(DoubleWell(), LangevinChains(), 1000, 2.0, 10.0),
    "LJ-13": ParticleTask(LennardJones(), LangevinChains(), 1000, 1.0, 5.0),
}


@dataclass(frozen=True)
class ParticleRun(StudyRun):
    """A flow that is fitted to a system of particles, and judged by the system's energy.

    Attributes:
        data: The system: DW-4 or LJ-13.
        seed: Of the weights and of all draws, but for those of the chains.
        num_samples: Number of samples that are weighted, and annealed.
    """

    data: str
    seed: int
    num_samples: int

    @property
    @abstractmethod
    def variant(self) -> str:
        """What the flow is fitted to."""

    @property
    @abstractmethod
    def flow_options(self) -> dict[str, Any]:
        """What the flow is made with."""

    @property
    @abstractmethod
    def fitting(self) -> Any:
        """How it is fitted: a dataclass."""

    @abstractmethod
    def fit(self, flow: VectorFlow, truth: ChainSamples, source: torch.Generator) -> None:
        """Fit it."""

    @property
    def task(self) -> ParticleTask:
        """The system, and its chains."""
        return TASKS[self.data]

    @property
    def settings(self) -> dict[str, Any]:
        return {
            **vars(self),
            "variant": self.variant,
            "system": repr(self.task),
            "flow": self.flow_options,
            "fit": {key: repr(value) for key, value in asdict(self.fitting).items()},
            "annealing": asdict(Annealing()),
        }

    @property
    def name(self) -> str:
        return f"{self.data}-{self.variant}-{self.seed}"

    def do(self) -> dict[str, Any]:
        """Draw the truth, fit and judge, with one thread."""
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        source = torch.Generator().manual_seed(self.seed)
        truth, truth_seconds = timed(self.task.truth)
        flow = VectorFlow(self.task.system.dim, **self.flow_options)
        _, fit_seconds = timed(lambda: self.fit(flow, truth, source))
        return {
            "settings": self.settings,
            "software": software(),
            "parameters": sum(each.numel() for each in flow.parameters()),
            "truth": {**self._told_of(truth), "seconds": truth_seconds},
            "seconds": fit_seconds,
            **self.judged(flow, truth, source),
        }

    @torch.no_grad()
    def judged(
        self, flow: VectorFlow, truth: ChainSamples, source: torch.Generator
    ) -> dict[str, Any]:
        """What weights and annealing make of the flow's samples, beside the truth."""
        energy, real = self.task.system.energy, self.task.histogram(truth.samples)
        drawn, seconds = timed(
            lambda: [
                importance_weights(flow, energy, self.num_samples, source=source)
                for _ in range(REPEATED)
            ]
        )
        first = drawn[0]
        annealed, annealed_seconds = timed(
            lambda: annealed_samples(flow, energy, self.num_samples, source=source)
        )
        histograms = {
            "truth": real,
            "samples": self.task.histogram(first.x),
            "weighted": self.task.histogram(first.x, first.weight),
            "annealed": self.task.histogram(annealed.x),
        }
        return {
            "effective_sample_size": mean([each.effective_sample_size for each in drawn]),
            "covered": covered(flow, truth, self.task.system),
            "log_normalizer": mean([each.log_normalizer for each in drawn]),
            "energies": {
                "samples": float(energy(first.x).double().mean()),
                "weighted": mean([_mean_energy(each, energy) for each in drawn]),
                "annealed": float(energy(annealed.x).double().mean()),
            },
            "distances": {
                key: float((each - real).abs().sum()) / 2 for key, each in histograms.items()
            },
            "weighing_seconds": seconds / REPEATED,
            "annealed": {
                "effective_sample_size": annealed.effective_sample_size,
                "log_normalizer": annealed.log_normalizer,
                "stages": len(annealed.shares),
                "seconds": annealed_seconds,
            },
            "histograms": {key: each.tolist() for key, each in histograms.items()},
        }

    def _told_of(self, truth: ChainSamples) -> dict[str, float]:
        """What tells how good the chains are."""
        return {
            "acceptance": truth.acceptance,
            "split_r_hat": truth.split_r_hat,
            "energy": float(truth.energy.mean()),
        }


@dataclass(frozen=True)
class SamplesRun(ParticleRun):
    """A flow that is fitted to samples of the chains, moved by symmetries of the system."""

    @property
    def variant(self) -> str:
        return "samples"

    @property
    def recipe(self) -> tuple[dict[str, Any], LikelihoodFit]:
        return BY_SAMPLES[self.data]

    def fit(self, flow: VectorFlow, truth: ChainSamples, source: torch.Generator) -> None:
        system = self.task.system
        many = [system.moved(truth.samples, source) for _ in range(COPIES)]
        self.fitting(flow, torch.cat(many).float(), source=source)


@dataclass(frozen=True)
class EnergyRun(ParticleRun):
    """A flow that is fitted to the energy alone."""

    @property
    def variant(self) -> str:
        return "energy"

    @property
    def recipe(self) -> tuple[dict[str, Any], ReverseFit]:
        return BY_ENERGY[self.data]

    def fit(self, flow: VectorFlow, truth: ChainSamples, source: torch.Generator) -> None:
        self.fitting(flow, self.task.system.energy, source=source)


def timed(function: Callable[[], Made]) -> tuple[Made, float]:
    """What a function makes, and the processor time that takes, in seconds."""
    start = time.process_time()
    made = function()
    return made, time.process_time() - start


def covered(flow: VectorFlow, truth: ChainSamples, system: ParticleSystem) -> float:
    """The effective sample size as true samples tell it: near 0 where the flow lacks a mode.

    It is $1 / (E_p[w] E_p[1 / w])$ with weights w, which is 1 for a flow that is the density.
    """
    x = truth.samples
    parts = [(-system.energy(part) - flow.log_prob(part.float())) for part in x.split(1000)]
    log_weight = torch.cat(parts).double()
    total = log_weight.logsumexp(dim=0) + (-log_weight).logsumexp(dim=0)
    return float((2 * math.log(len(x)) - total).exp())


def _mean_energy(sample: ImportanceSample, energy: Callable[[Tensor], Tensor]) -> float:
    """The mean energy by weights."""
    return float(sample.mean(energy(sample.x)))
