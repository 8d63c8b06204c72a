"""Runs of the study of samplers: fit a flow or a student, keep it, and judge its samples."""

from dataclasses import dataclass
from typing import Any

from tarflow.ablation.data_sets import data_of
from tarflow.ablation.sampled_run import SampledRun
from tarflow.ablation.samplers.distilling import distil
from tarflow.ablation.samplers.methods import METHODS
from tarflow.ablation.small_flow import FITTED, fit_flow, recipe
from tarflow.flows.flow import Flow
from tarflow.flows.pretrained import Pretrained, load


@dataclass(frozen=True)
class FlowRun(SampledRun):
    """The flow, drawn from exactly."""

    guidance: float  # weight of guided samples

    @property
    def variant(self) -> str:
        return FITTED.name

    @property
    def recipe(self) -> dict[str, Any]:
        return recipe()

    @property
    def weight(self) -> float:
        return self.guidance

    def fit(self) -> tuple[Flow, dict[str, Any]]:
        flow, counts = fit_flow(data_of(self.data), self.seconds, self.seed)
        return flow, {**counts, "training": {"own": self.seconds, "in_all": self.seconds}}


@dataclass(frozen=True)
class StudentRun(SampledRun):
    """A student of the flow of the same data and seed, which has to be there."""

    guidance: float
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
        return found.student, {
            "steps": found.steps,
            "skipped": found.skipped,
            "training": {"own": found.seconds, "in_all": in_all},
        }
