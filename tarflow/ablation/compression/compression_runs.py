"""Runs of the study of compression: flows, and smaller ones that are made of them."""

import time
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tarflow.ablation.compression.compressors import CALIBRATION, COMPRESSORS
from tarflow.ablation.data_sets import data_of, whole
from tarflow.ablation.fitting import fit
from tarflow.ablation.sampled_run import DrawnRun
from tarflow.ablation.small_flow import FITTED, fit_flow, recipe
from tarflow.compression.cost import cache_bytes, mlp_operations
from tarflow.evaluation import LikelihoodMetrics
from tarflow.flows.codec import UniformDequantization
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.noise import NoNoise
from tarflow.flows.pretrained import load
from tarflow.flows.tar_flow import TarFlow
from tarflow.flows.unit import Unit
from tarflow.sampling.drawing import read_classes
from tarflow.sampling.flow_sampler import FlowSampler
from tarflow.sampling.sampler import Sampler
from tarflow.training.acceleration import networks
from tarflow.training.operations import forward_operations

SIZES: dict[str, Any] = {"model_dim": 96, "head_dim": 24}
"""Wider than in other studies: four heads, and MLPs with something to leave out."""
FLOWS: dict[str, dict[str, Any]] = {
    "digits": {**SIZES, "noise": NoNoise(), "codec": UniformDequantization(17)},
    "photographs_32": {**SIZES, "patch_size": 4},
    "random_32": {"patch_size": 8, "model_dim": 16, "head_dim": 8},
}
"""What flows of each data set differ in: digits are dequantized, and have bits/dim.

Random bytes are there to try the study.
"""
TUNING = replace(FITTED, lr=1e-3)
"""How flows are tuned: as they are fitted, at a tenth of the learning rate."""
SMALL = 0.01
"""A rise, in bits or nats per dimension, that counts as none."""


@dataclass(frozen=True)
class MeasuredRun(DrawnRun):
    """A flow that is judged by its likelihood beside that of another, and by what it computes."""

    @property
    @abstractmethod
    def original(self) -> "OriginalRun":
        """The run of the other flow."""

    def judged(self, model: TarFlow) -> dict[str, Any]:
        """The likelihood of held-out images, its rise image by image, and costs."""
        metrics, unit = LikelihoodMetrics(), Unit.of(model).name
        report, other = (
            metrics(each, data_of(self.data)) for each in (model, load(self.original.pretrained))
        )
        rise = metrics.compare(report, other).values[f"{unit}_difference"]
        return {
            "loss": report.values[unit]["mean"],
            "rise": {name: rise[name] for name in ("mean", "standard_error")},
            "is_small": float(rise["mean"] <= SMALL),
            "round_trip": report.values["largest_round_trip_deviation"],
            "operations": sum(map(forward_operations, networks(model))),
            "mlp_operations": mlp_operations(model),
            "cache_bytes": cache_bytes(model),
        }

    def samplers(self) -> dict[str, Sampler]:
        model, options = self.model(), DecodeOptions().prepared()
        classes = read_classes("all", model.num_classes)
        return {"drawn": FlowSampler(model, classes=classes, denoise=False, options=options)}

    def model(self) -> TarFlow:
        """What is drawn from."""
        return load(self.pretrained)


@dataclass(frozen=True)
class OriginalRun(MeasuredRun):
    """A flow as it is fitted."""

    @property
    def variant(self) -> str:
        return FITTED.name

    @property
    def recipe(self) -> dict[str, Any]:
        return recipe(**FLOWS[self.data])

    @property
    def original(self) -> "OriginalRun":
        return self

    def fit(self) -> tuple[TarFlow, dict[str, Any]]:
        return fit_flow(data_of(self.data), self.seconds, self.seed, **FLOWS[self.data])


@dataclass(frozen=True)
class LaterRun(MeasuredRun):
    """A flow that is made of one that has to be there, and tuned if there are seconds for that."""

    flow: OriginalRun

    @property
    def original(self) -> OriginalRun:
        return self.flow

    @property
    def recipe(self) -> dict[str, Any]:
        return {"flow": self.flow.settings, "lr": TUNING.lr, **CALIBRATION}

    @abstractmethod
    def made(self) -> TarFlow:
        """The flow before it is tuned."""

    def fit(self) -> tuple[TarFlow, dict[str, Any]]:
        start = time.process_time()
        model = self.made()
        taken = {"making": time.process_time() - start}
        if not self.seconds:
            return model, taken
        data: Any = data_of(self.data)
        torch.manual_seed(self.seed)
        found = fit(model, TUNING, whole(data.train), whole(data.validation), self.seconds)
        assert isinstance(found.average, TarFlow)
        return found.average, {**taken, "steps": found.steps, "skipped": found.skipped}


@dataclass(frozen=True)
class LongerRun(LaterRun):
    """The flow itself, tuned for as long as smaller ones are."""

    @property
    def variant(self) -> str:
        return f"{FITTED.name}_tuned"

    def made(self) -> TarFlow:
        return self.flow.model()


@dataclass(frozen=True)
class CompressedRun(LaterRun):
    """A smaller flow."""

    compressor: str
    share: float  # of the operations of MLPs

    @property
    def variant(self) -> str:
        return variant_of(self.compressor, self.share, self.seconds > 0)

    def made(self) -> TarFlow:
        compressor = COMPRESSORS[self.compressor]
        return compressor(self.flow.model(), data_of(self.data), self.seed, self.share)

    @property
    def is_kept(self) -> bool:
        """Whether it is saved; else it is made again from the flow."""
        return COMPRESSORS[self.compressor].is_kept

    @property
    def pretrained(self) -> Path:
        return super().pretrained if self.is_kept else self.flow.pretrained

    def keep(self, model: TarFlow) -> None:
        if self.is_kept:
            super().keep(model)

    def model(self) -> TarFlow:
        return super().model() if self.is_kept else self.made()


def variant_of(compressor: str, share: float, tuned: bool = False) -> str:
    """The name of a way to make a flow smaller, in files."""
    return f"{compressor}_{share:g}{'_tuned' if tuned else ''}"
