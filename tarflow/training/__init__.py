"""Training with Lightning."""

from tarflow.training.averaging import WeightAveraging
from tarflow.training.best_export import BestExport
from tarflow.training.callbacks import PretrainedExport, SampleGrid, StepProgressBar
from tarflow.training.checkpoints import LastCheckpoint
from tarflow.training.distillation.classifier_features import ClassifierFeatures
from tarflow.training.distillation.couplings import Coupling, FlowCoupling, IndependentCoupling
from tarflow.training.distillation.distribution_matching import DistributionMatching
from tarflow.training.distillation.flow_matching import FlowMatching
from tarflow.training.distillation.gradient_scale import (
    AsIs,
    ByDistance,
    ByMeanSize,
    GradientScale,
)
from tarflow.training.distillation.guidance_weights import (
    GuidanceWeights,
    Unguided,
    UniformWeights,
)
from tarflow.training.distillation.image_distances import Distance, FeatureDistance, SquaredError
from tarflow.training.distillation.inverse_regression import InverseRegression
from tarflow.training.distillation.network_features import NetworkFeatures
from tarflow.training.distillation.prior_pairs import PriorPairs
from tarflow.training.distillation.score_identity import ScoreIdentity
from tarflow.training.distillation.score_objective import ScoreObjective
from tarflow.training.distillation.second_network import SecondNetwork
from tarflow.training.distillation.shortcut import Shortcut
from tarflow.training.distillation.student_objective import StudentObjective
from tarflow.training.distillation.time_draws import (
    LogitNormalTimes,
    PinnedTimes,
    TimeDraws,
    UniformTimes,
)
from tarflow.training.end_to_end import EndToEnd
from tarflow.training.fit_module import FitModule
from tarflow.training.module import FlowModule
from tarflow.training.monitoring import Throughput, TransformStatistics
from tarflow.training.objective import Loss, MaximumLikelihood, Objective
from tarflow.training.optimizers import MuonAdamW, adamw, muon, warmup_cosine
from tarflow.training.preemption import Preemption
from tarflow.training.run import Run
from tarflow.training.sharding import ShardedStrategy
from tarflow.training.skipping import DivergenceError
from tarflow.training.student_grid import StudentGrid
from tarflow.training.student_module import StudentModule
from tarflow.training.tokenization.collapse_warning import CollapseWarning
from tarflow.training.tokenization.decoder_objective import DecoderObjective
from tarflow.training.tokenization.reconstruction_grid import ReconstructionGrid
from tarflow.training.tokenization.tokenizer_module import TokenizerModule
from tarflow.training.tokenization.tokenizer_objective import TokenizerObjective

__all__ = [
    "AsIs",
    "BestExport",
    "ByDistance",
    "ByMeanSize",
    "ClassifierFeatures",
    "CollapseWarning",
    "Coupling",
    "DecoderObjective",
    "Distance",
    "DistributionMatching",
    "DivergenceError",
    "EndToEnd",
    "FeatureDistance",
    "FitModule",
    "FlowCoupling",
    "FlowMatching",
    "FlowModule",
    "GradientScale",
    "GuidanceWeights",
    "IndependentCoupling",
    "InverseRegression",
    "LastCheckpoint",
    "LogitNormalTimes",
    "Loss",
    "MaximumLikelihood",
    "MuonAdamW",
    "NetworkFeatures",
    "Objective",
    "PinnedTimes",
    "Preemption",
    "PretrainedExport",
    "PriorPairs",
    "ReconstructionGrid",
    "Run",
    "SampleGrid",
    "ScoreIdentity",
    "ScoreObjective",
    "SecondNetwork",
    "ShardedStrategy",
    "Shortcut",
    "SquaredError",
    "StepProgressBar",
    "StudentGrid",
    "StudentModule",
    "StudentObjective",
    "Throughput",
    "TimeDraws",
    "TokenizerModule",
    "TokenizerObjective",
    "TransformStatistics",
    "Unguided",
    "UniformTimes",
    "UniformWeights",
    "WeightAveraging",
    "adamw",
    "muon",
    "warmup_cosine",
]
