"""Evaluation: likelihoods and the quality of samples."""

from tarflow.evaluation.comparison import compare_likelihoods
from tarflow.evaluation.distances import frechet_distance, kernel_distance, precision_and_recall
from tarflow.evaluation.extractors import Extractor, Inception, PixelFeatures
from tarflow.evaluation.likelihood import LikelihoodMetrics
from tarflow.evaluation.metrics import Metrics
from tarflow.evaluation.reporting import Report
from tarflow.evaluation.samples import SampleMetrics
from tarflow.evaluation.work import InMemory, Kept

Pixels = PixelFeatures
"""The name of earlier configurations."""

__all__ = [
    "Extractor",
    "InMemory",
    "Inception",
    "Kept",
    "LikelihoodMetrics",
    "Metrics",
    "PixelFeatures",
    "Report",
    "SampleMetrics",
    "compare_likelihoods",
    "frechet_distance",
    "kernel_distance",
    "precision_and_recall",
]
