"""Runs that fit a model, keep it, and judge its samples."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tarflow.ablation.data_sets import data_of, features_of
from tarflow.ablation.study import StudyRun
from tarflow.evaluation import SampleMetrics
from tarflow.evaluation.provenance import software
from tarflow.evaluation.samples import HELD_OUT
from tarflow.evaluation.ways import FlowWays, StudentWays
from tarflow.flows.guidance import LinearGuidance
from tarflow.flows.pretrained import Pretrained, load
from tarflow.sampling.denoiser import AutoDenoiser
from tarflow.sampling.sampler import Sampler
from tarflow.students.student import Student

MOST_REAL = 5000
"""Training images that samples are compared with."""


@dataclass(frozen=True)
class FittedRun(StudyRun):
    """A model that is fitted to a data set with a seed, kept, and judged."""

    directory: Path  # of the study
    data: str
    seed: int  # of the weights, of all draws in training, and of the samples
    seconds: float  # processor time of training

    @property
    @abstractmethod
    def variant(self) -> str:
        """The name of what is fitted."""

    @property
    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """How it is made and fitted."""

    @property
    def settings(self) -> dict[str, Any]:
        given = {name: value for name, value in vars(self).items() if name != "directory"}
        return {**given, "variant": self.variant, **self.recipe}

    @property
    def name(self) -> str:
        return f"{self.data}-{self.variant}-{self.seed}"

    @property
    def pretrained(self) -> Path:
        """Where the model is kept."""
        return self.directory / "models" / self.name

    @abstractmethod
    def fit(self) -> tuple[Pretrained, dict[str, Any]]:
        """Fit the model, and tell what that took."""

    @abstractmethod
    def judged(self, model: Pretrained) -> dict[str, Any]:
        """What is measured of it."""

    def keep(self, model: Pretrained) -> None:
        """Save the model."""
        model.save_pretrained(self.pretrained)

    def do(self) -> dict[str, Any]:
        """Fit, keep and judge, with one thread: then what runs beside it changes least."""
        torch.set_num_threads(1)
        model, taken = self.fit()
        self.keep(model)
        return {
            "settings": self.settings,
            "data": data_of(self.data).name,
            "software": software(),
            "parameters": sum(p.numel() for p in model.parameters()),
            **taken,
            **self.judged(model),
        }


@dataclass(frozen=True)
class DrawnRun(FittedRun):
    """A model that is drawn from, to time its samples."""

    @abstractmethod
    def samplers(self) -> dict[str, Sampler]:
        """What draws from the model that is kept, in every way that is timed, by its name."""


@dataclass(frozen=True)
class SampledRun(DrawnRun):
    """A model that is judged by its samples."""

    num_samples: int

    @property
    def weight(self) -> float:
        """Weight of guided samples; 0 where none are drawn."""
        return 0.0

    @property
    def steps(self) -> tuple[int, ...] | None:
        """Numbers of steps in which samples are drawn."""
        return None

    def judged(self, model: Pretrained) -> dict[str, Any]:
        """The scores of samples by how they are drawn, and those of real images."""
        metrics = SampleMetrics(
            num_samples=self.num_samples,
            seeds=(self.seed,),
            guidance=LinearGuidance(self.weight),
            extractors={"features": features_of(self.data)},
            num_reference=MOST_REAL,
            steps=self.steps,
        )
        found = metrics(model, data_of(self.data)).values["samples"]
        scores = {way: _numbers(each) for way, each in found.items()}
        return {"real": scores.pop(HELD_OUT), "samples": scores}

    def samplers(self) -> dict[str, Sampler]:
        """What draws from the model in every way that is judged."""
        model, rule = load(self.pretrained), LinearGuidance(self.weight)
        if isinstance(model, Student):
            return StudentWays(model, rule, self.steps or ()).samplers(conditioned=True)
        ways = FlowWays(model, rule, AutoDenoiser())
        return {
            f"{name}{end}": replace(sampler, denoise=panel == "denoised")
            for name, sampler in ways.samplers(conditioned=True).items()
            for end, panel in ways.panels.items()
        }


def _numbers(scores: dict[str, Any]) -> dict[str, float]:
    """The scores of one seed as plain numbers."""
    nested = {**scores.pop("features"), **scores}
    return {name: each["mean"] for name, each in nested.items()}
