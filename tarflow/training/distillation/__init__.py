"""What students of a flow are trained by."""

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
from tarflow.training.distillation.image_distances import Distance, SquaredError
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

__all__ = [
    "AsIs",
    "ByDistance",
    "ByMeanSize",
    "ClassifierFeatures",
    "Coupling",
    "Distance",
    "DistributionMatching",
    "FlowCoupling",
    "FlowMatching",
    "GradientScale",
    "GuidanceWeights",
    "IndependentCoupling",
    "InverseRegression",
    "LogitNormalTimes",
    "NetworkFeatures",
    "PinnedTimes",
    "PriorPairs",
    "ScoreIdentity",
    "ScoreObjective",
    "SecondNetwork",
    "Shortcut",
    "SquaredError",
    "StudentObjective",
    "TimeDraws",
    "Unguided",
    "UniformTimes",
    "UniformWeights",
]
