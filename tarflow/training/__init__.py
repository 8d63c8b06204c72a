"""Training with Lightning."""

from tarflow.training.averaging import WeightAveraging
from tarflow.training.callbacks import (
    LastCheckpoint,
    PretrainedExport,
    SampleGrid,
    StepProgressBar,
)
from tarflow.training.module import DivergenceError, FlowModule
from tarflow.training.optimizers import adamw, warmup_cosine
from tarflow.training.run import Run

__all__ = [
    "DivergenceError",
    "FlowModule",
    "LastCheckpoint",
    "PretrainedExport",
    "Run",
    "SampleGrid",
    "StepProgressBar",
    "WeightAveraging",
    "adamw",
    "warmup_cosine",
]
