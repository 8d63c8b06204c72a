"""Evaluation: likelihoods, the quality of samples, and classes."""

from tarflow.evaluation.accuracy import ClassificationMetrics
from tarflow.evaluation.classification import classify_by_density, classify_by_gradient
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
    "ClassificationMetrics",
    "Extractor",
    "InMemory",
    "Inception",
    "Kept",
    "LikelihoodMetrics",
    "Metrics",
    "PixelFeatures",
    "Report",
    "SampleMetrics",
    "classify_by_density",
    "classify_by_gradient",
    "compare_likelihoods",
    "frechet_distance",
    "kernel_distance",
    "precision_and_recall",
]
