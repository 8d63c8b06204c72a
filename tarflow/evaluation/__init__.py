"""Evaluation: likelihoods and the quality of samples."""

from tarflow.evaluation.comparison import compare_likelihoods
from tarflow.evaluation.distances import frechet_distance
from tarflow.evaluation.likelihood import LikelihoodMetrics
from tarflow.evaluation.report import Report
from tarflow.evaluation.samples import SampleMetrics
from tarflow.evaluation.work import InMemory, Kept

__all__ = [
    "InMemory",
    "Kept",
    "LikelihoodMetrics",
    "Report",
    "SampleMetrics",
    "compare_likelihoods",
    "frechet_distance",
]
