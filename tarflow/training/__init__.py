"""Training with Lightning."""

from tarflow.training.averaging import WeightAveraging
from tarflow.training.callbacks import (
    LastCheckpoint,
    PretrainedExport,
    SampleGrid,
    StepProgressBar,
)
from tarflow.training.module import DivergenceError, FlowModule
from tarflow.training.monitoring import Throughput, TransformStatistics
from tarflow.training.optimizers import MuonAdamW, adamw, muon, warmup_cosine
from tarflow.training.run import Run

__all__ = [
    "DivergenceError",
    "FlowModule",
    "LastCheckpoint",
    "MuonAdamW",
    "PretrainedExport",
    "Run",
    "SampleGrid",
    "StepProgressBar",
    "Throughput",
    "TransformStatistics",
    "WeightAveraging",
    "adamw",
    "muon",
    "warmup_cosine",
]
