"""Densities of numbers in memory: fitted at once, and as other libraries know estimators."""

from tarflow.estimation.flow_density import TarFlowDensity
from tarflow.estimation.likelihood_fit import FitHistory, LikelihoodFit
from tarflow.estimation.reverse_fit import ReverseFit, ReverseHistory

__all__ = ["FitHistory", "LikelihoodFit", "ReverseFit", "ReverseHistory", "TarFlowDensity"]
