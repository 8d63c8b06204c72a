"""Densities of numbers in memory: fitted at once, and as other libraries know estimators."""

from tarflow.estimation.flow_density import TarFlowDensity
from tarflow.estimation.likelihood_fit import FitHistory, LikelihoodFit

__all__ = ["FitHistory", "LikelihoodFit", "TarFlowDensity"]
