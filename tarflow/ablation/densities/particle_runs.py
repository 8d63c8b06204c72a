"""Runs that fit flows to systems of particles: to samples of Markov chains, and to the energy."""

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from tarflow.ablation.densities.particle_tasks import TASKS, ParticleTask, Vectors
from tarflow.ablation.study import StudyRun
from tarflow.estimation.likelihood_fit import LikelihoodFit
from tarflow.estimation.reverse_fit import ReverseFit
from tarflow.evaluation.provenance import software
from tarflow.flows.spline import SplineScale
from tarflow.flows.vector_flow import VectorFlow
from tarflow.sampling.annealed import Annealing, anneal, annealed_samples
from tarflow.sampling.importance import importance_weights
from tarflow.sampling.langevin_chains import ChainSamples

Made = TypeVar("Made")

SIZES: dict[str, Any] = {"num_transforms": 2, "num_layers": 2, "model_dim": 64, "head_dim": 16}
FLOW: dict[str, Any] = {**SIZES, "scale": SplineScale(16)}
HOT_FLOW: dict[str, Any] = {**FLOW, "num_layers": 1}
FREE_FIT = LikelihoodFit(max_steps=200, lr=1e-2)
HOT_FIT = ReverseFit(
    max_steps=200, batch_size=192, lr=2e-3, first_share=1.0, energy_limit=100.0, num_looked=0
)
ANNEALING = Annealing(kept=0.6)
NUM_FREE = 20_000
"""Shapes of free particles that a flow is fitted to before it sees the energy."""
COPIES = 3
"""How often particles of each sample are put in order, at random."""
TURNED = 2
"""How often each hot sample is cooled, turned in another way."""
REPEATED = 5
"""How often importance weights are drawn; means count."""


@dataclass(frozen=True)
class ParticleRun(StudyRun):
    """A flow that is fitted to a system of particles, and judged by the energy.

    Attributes:
        data: The system, DW-4 or LJ-13.
        seed: Of the weights and of all draws but those of the chains.
        num_samples: Number of samples that are weighted; a fifth as many are annealed.
    """

    data: str
    seed: int
    num_samples: int = 5000

    @property
    @abstractmethod
    def variant(self) -> str:
        """What the flow is fitted to."""

    @abstractmethod
    def examples(self, truth: ChainSamples, source: torch.Generator) -> Vectors:
        """The shapes that it is fitted to."""

    @property
    def task(self) -> ParticleTask:
        """The system, and its chains."""
        return TASKS[self.data]

    @property
    def settings(self) -> dict[str, Any]:
        parts = {"task": self.task, "flow": FLOW, "annealing": ANNEALING}
        told = {name: repr(part) for name, part in parts.items()}
        return {**vars(self), "variant": self.variant, "copies": COPIES, **told}

    @property
    def name(self) -> str:
        return f"{self.data}-{self.variant}-{self.seed}"

    def do(self) -> dict[str, Any]:
        """Draw the truth, fit and judge, with one thread."""
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        source = torch.Generator().manual_seed(self.seed)
        truth, truth_seconds = timed(self.task.truth)
        flow, seconds = timed(lambda: self.fitted(truth, source))
        return {
            "settings": self.settings,
            "software": software(),
            "parameters": sum(each.numel() for each in flow.parameters()),
            "seconds": seconds,
            "truth": {
                "acceptance": truth.acceptance,
                "split_r_hat": truth.split_r_hat,
                "energy": float(truth.energy.mean()),
                "seconds": truth_seconds,
            },
            **self.judged(flow, truth, source),
        }

    def fitted(self, truth: ChainSamples, source: torch.Generator) -> VectorFlow:
        """Fit a flow to examples."""
        flow, x = self.flow(**FLOW), self.examples(truth, source)
        self.task.fit(flow, x.float(), source=source)
        return flow

    def flow(self, **options: Any) -> VectorFlow:
        """A new flow of shapes."""
        shapes = self.task.shapes
        return VectorFlow(shapes.dim, shapes.supports, **options)

    @torch.no_grad()
    def judged(
        self, flow: VectorFlow, truth: ChainSamples, source: torch.Generator
    ) -> dict[str, Any]:
        """What weights and annealing make of the flow's samples, beside the truth."""
        task, energy = self.task, self.task.shapes.energy
        told: Any = {"num_samples": self.num_samples, "source": source}
        drawn, seconds = timed(
            lambda: [importance_weights(flow, energy, **told) for _ in range(REPEATED)]
        )
        annealed, annealed_seconds = timed(
            lambda: annealed_samples(
                flow, energy, self.num_samples // 5, annealing=ANNEALING, source=source
            )
        )
        first, real = drawn[0], task.shapes.drawn(truth.samples, source)
        histograms = {
            "truth": task.histogram(real),
            "flow": task.histogram(first.x),
            "weighted": task.histogram(first.x, first.weight),
            "annealed": task.histogram(annealed.x),
        }
        potential = {
            "flow": self.potential(first.x).median(),
            "weighted": mean([each.mean(self.potential(each.x)) for each in drawn]),
            "annealed": self.potential(annealed.x).mean(),
        }
        return {
            "effective_sample_size": mean([each.effective_sample_size for each in drawn]),
            "covered": task.covered(flow, real),
            "log_normalizer": mean([each.log_normalizer for each in drawn]),
            "weighing_seconds": seconds / REPEATED,
            "annealed": {
                "effective_sample_size": annealed.effective_sample_size,
                "log_normalizer": annealed.log_normalizer,
                "stages": len(annealed.shares),
                "seconds": annealed_seconds,
            },
            "energies": {name: float(each) for name, each in potential.items()},
            "gaps": {
                name: float((each - histograms["truth"]).abs().sum()) / 2
                for name, each in histograms.items()
            },
            "histograms": {name: each.tolist() for name, each in histograms.items()},
        }

    def potential(self, x: Vectors) -> torch.Tensor:
        """The potential energies of shapes, over the temperature: without what orders add."""
        system = self.task.shapes.system
        return system.potential(self.task.shapes.positions(x)) / system.temperature


@dataclass(frozen=True)
class SamplesRun(ParticleRun):
    """A flow that is fitted to samples of the chains, in many orders."""

    @property
    def variant(self) -> str:
        return "samples"

    def examples(self, truth: ChainSamples, source: torch.Generator) -> Vectors:
        return self.task.shapes.drawn(truth.samples.repeat(COPIES, 1), source)


@dataclass(frozen=True)
class EnergyRun(ParticleRun):
    """A flow that is fitted to the energy alone.

    Another one is fitted to free particles, whose samples are known, and then to a hot system by
    the reverse divergence; its samples are annealed to that, and cooled.
    """

    @property
    def variant(self) -> str:
        return "energy"

    @property
    def settings(self) -> dict[str, Any]:
        hot = {"flow": HOT_FLOW, "num_free": NUM_FREE, "free_fit": FREE_FIT, "fit": HOT_FIT}
        hot["turned"] = TURNED
        return {**super().settings, "hot": {name: repr(part) for name, part in hot.items()}}

    def examples(self, truth: ChainSamples, source: torch.Generator) -> Vectors:
        shapes, flow = self.task.shapes, self.flow(**HOT_FLOW)
        free = shapes.drawn(self.task.free_std * self.task.normal(NUM_FREE, source), source)
        FREE_FIT(flow, free.float(), source=source)
        hot = replace(shapes.system, temperature=self.task.hot)
        hot_shapes = replace(shapes, system=hot)
        HOT_FIT(flow, hot_shapes.energy, source=source)
        drawn = annealed_samples(
            flow, hot_shapes.energy, self.num_samples, annealing=ANNEALING, source=source
        )
        vectors = hot.vectors(shapes.positions(drawn.x.double()))
        cold = anneal(
            hot.moved(vectors.repeat(TURNED, 1), source),
            lambda x: -hot.energy(x),
            shapes.system.energy,
            annealing=self.task.cooling,
            source=source,
        )
        return shapes.drawn(cold.x.repeat(COPIES, 1), source)


def timed(function: Callable[[], Made]) -> tuple[Made, float]:
    """What a function makes, and the processor time that takes, in seconds."""
    start = time.process_time()
    made = function()
    return made, time.process_time() - start


def mean(values: list[Any]) -> float:
    """The mean of some numbers."""
    return float(sum(values)) / len(values)
