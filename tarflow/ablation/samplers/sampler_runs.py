"""Runs of the study of samplers: fit a flow or a student, keep it, and judge its samples."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tarflow.ablation.fitting import fit
from tarflow.ablation.judging import MOST_COMPONENTS
from tarflow.ablation.principal_components import PrincipalComponents
from tarflow.ablation.samplers.distilling import distil
from tarflow.ablation.samplers.methods import FITTED, FLOW, METHODS, PATCH_SIZE, make_flow
from tarflow.ablation.study import StudyRun
from tarflow.ablation.variant_runs import DATA
from tarflow.data import ImageData
from tarflow.data.loading.batches import Batch, read_batch
from tarflow.evaluation import PixelFeatures, SampleMetrics
from tarflow.evaluation.extractors import Extractor
from tarflow.evaluation.provenance import software
from tarflow.evaluation.samples import HELD_OUT
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import LinearGuidance
from tarflow.flows.pretrained import Pretrained, load

FITTING = ("optimizer", "lr", "max_grad_norm", "batch_size")
"""How a flow is fitted, of the settings of variants."""
MOST_REAL = 5000
"""Training images that samples are compared with."""


@dataclass(frozen=True)
class SamplerRun(StudyRun):
    """A model that is fitted to a data set with a seed, kept, and judged by its samples."""

    directory: Path  # of the study
    data: str
    seed: int  # of the weights, of all draws in training, and of the samples
    seconds: float  # processor time of training
    num_samples: int
    guidance: float  # weight of guided samples

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

    @property
    def weight(self) -> float:
        """Weight of guided samples; 0 where none are drawn."""
        return self.guidance

    @abstractmethod
    def fit(self) -> tuple[Pretrained, dict[str, Any]]:
        """Fit the model, and tell what that took."""

    @property
    def steps(self) -> tuple[int, ...] | None:
        """Numbers of steps in which samples are drawn."""
        return None

    def do(self) -> dict[str, Any]:
        """Fit, keep and judge, with one thread: then what runs beside it changes least."""
        torch.set_num_threads(1)
        model, taken = self.fit()
        model.save_pretrained(self.pretrained)
        return {
            "settings": self.settings,
            "data": data_of(self.data).name,
            "software": software(),
            "parameters": sum(p.numel() for p in model.parameters()),
            **taken,
            **self.judged(model),
        }

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


@dataclass(frozen=True)
class FlowRun(SamplerRun):
    """The flow, drawn from exactly."""

    @property
    def variant(self) -> str:
        return FITTED.name

    @property
    def recipe(self) -> dict[str, Any]:
        flow = {name: repr(value) for name, value in FLOW.items()}
        fitted = {name: FITTED.settings[name] for name in FITTING}
        return {**flow, "patch_size": PATCH_SIZE, **fitted}

    def fit(self) -> tuple[Flow, dict[str, Any]]:
        data = data_of(self.data)
        torch.manual_seed(self.seed)
        train, validation = whole(data.train), whole(data.validation)
        found = fit(make_flow(data), FITTED, train, validation, self.seconds)
        assert isinstance(found.average, Flow)
        taken = {"own": self.seconds, "in_all": self.seconds}
        return found.average, {"steps": found.steps, "skipped": found.skipped, "training": taken}


@dataclass(frozen=True)
class StudentRun(SamplerRun):
    """A student of the flow of the same data and seed, which has to be there."""

    method: str
    flow: FlowRun

    @property
    def variant(self) -> str:
        return self.method

    @property
    def recipe(self) -> dict[str, Any]:
        flow = {name: self.flow.settings[name] for name in ("seconds", *self.flow.recipe)}
        return {"flow": flow, **METHODS[self.method].settings}

    @property
    def weight(self) -> float:
        return self.guidance if METHODS[self.method].guided else 0.0

    @property
    def steps(self) -> tuple[int, ...]:
        return METHODS[self.method].steps

    def fit(self) -> tuple[Pretrained, dict[str, Any]]:
        method, flow = METHODS[self.method], load(self.flow.pretrained)
        before = self.flow.seconds
        seconds = self.seconds + (before if method.with_flow else 0)
        found = distil(method, flow, data_of(self.data), seconds, self.seed)
        in_all = found.seconds + (before if method.needs_flow else 0)
        taken = {"own": found.seconds, "in_all": in_all}
        return found.student, {
            "steps": found.steps,
            "skipped": found.skipped,
            "training": taken,
        }


@cache
def data_of(name: str) -> ImageData:
    """A data set, read once in each process."""
    return DATA[name]()


@cache
def features_of(name: str) -> Extractor:
    """What images of a data set are compared by: pixels, or their principal components."""
    train = whole(data_of(name).train).x
    if train[0].numel() <= MOST_COMPONENTS:
        return PixelFeatures()
    return PrincipalComponents.of(train, MOST_COMPONENTS)


def whole(part: Any) -> Batch:
    """All of a part of a data set."""
    return read_batch(part, range(len(part)))


def _numbers(scores: dict[str, Any]) -> dict[str, float]:
    """The scores of one seed as plain numbers."""
    nested = {**scores.pop("features"), **scores}
    return {name: each["mean"] for name, each in nested.items()}
