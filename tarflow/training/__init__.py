"""Training with Lightning."""

from tarflow.training.averaging import WeightAveraging
from tarflow.training.callbacks import PretrainedExport, SampleGrid, StepProgressBar
from tarflow.training.checkpoints import LastCheckpoint
from tarflow.training.fit_module import DivergenceError, FitModule
from tarflow.training.module import FlowModule
from tarflow.training.monitoring import Throughput, TransformStatistics
from tarflow.training.objective import Loss, MaximumLikelihood, Objective
from tarflow.training.optimizers import MuonAdamW, adamw, muon, warmup_cosine
from tarflow.training.preemption import Preemption
from tarflow.training.run import Run
from tarflow.training.sharding import ShardedStrategy

__all__ = [
    "DivergenceError",
    "FitModule",
    "FlowModule",
    "LastCheckpoint",
    "Loss",
    "MaximumLikelihood",
    "MuonAdamW",
    "Objective",
    "Preemption",
    "PretrainedExport",
    "Run",
    "SampleGrid",
    "ShardedStrategy",
    "StepProgressBar",
    "Throughput",
    "TransformStatistics",
    "WeightAveraging",
    "adamw",
    "muon",
    "warmup_cosine",
]
