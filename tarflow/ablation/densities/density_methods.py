"""What the study of densities compares: each is fitted to training rows, and chosen by others."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal

from tarflow.ablation.densities.density_data import PLANAR, DensityData
from tarflow.ablation.densities.density_fitting import (
    FlowTrial,
    RowDensity,
    VectorRows,
    ZukoRows,
    fit_rows,
)
from tarflow.ablation.densities.flow_settings import PLANE, TABLE, TRIALS, FlowSetting

SHRINKAGES = (0.0, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Shares of the identity in a Gaussian's covariance."""
COMPONENTS = range(1, 21)
COVARIANCES = (1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1)
"""What is added to the variances of a mixture's components."""
LogProb = Callable[[Float[Tensor, "rows columns"]], Float[Tensor, " rows"]]


@dataclass(frozen=True)
class FittedDensity:
    """A density of standardized rows.

    Attributes:
        log_prob: Log-densities of rows, in nats, in float64.
        told: What it took and what was chosen, for JSON.
    """

    log_prob: LogProb
    told: dict[str, Any]


@dataclass(frozen=True)
class DensityMethod(ABC):
    """A way to fit a density.

    Attributes:
        name: What it is called in files.
        words: What it is called in tables.
    """

    name: str
    words: str

    @abstractmethod
    def recipe(self, data: str) -> dict[str, Any]:
        """All that it is tried with on a data set, as JSON gives it back."""

    @abstractmethod
    def fit(self, data: DensityData, seed: int, seconds: float) -> FittedDensity:
        """Fit it, and choose by validation rows."""


@dataclass(frozen=True)
class GaussianMethod(DensityMethod):
    """One normal distribution."""

    def recipe(self, data: str) -> dict[str, Any]:
        return {"shrinkages": list(SHRINKAGES)}

    def fit(self, data: DensityData, seed: int, seconds: float) -> FittedDensity:
        start, dim = time.process_time(), data.dim
        covariance = data.train.T.cov(correction=0).reshape(dim, dim)
        fitted: dict[float, MultivariateNormal] = {}
        for share in SHRINKAGES:
            mixed = (1 - share) * covariance + share * torch.eye(dim, dtype=covariance.dtype)
            if torch.linalg.eigvalsh(mixed)[0] > 0:
                fitted[share] = MultivariateNormal(data.train.mean(dim=0), mixed)
        losses = {share: -float(g.log_prob(data.validation).mean()) for share, g in fitted.items()}
        share = min(losses, key=lambda each: losses[each])
        told = {"chosen": {"shrinkage": share}, "validation": losses[share], "steps": 0}
        told |= {"parameters": dim + dim * (dim + 1) // 2, "seconds": time.process_time() - start}
        return FittedDensity(fitted[share].log_prob, told)


@dataclass(frozen=True)
class MixtureMethod(DensityMethod):
    """A mixture of normal distributions, each with a covariance of its own."""

    def recipe(self, data: str) -> dict[str, Any]:
        return {"components": list(COMPONENTS), "covariances": self.covariances(data)}

    def covariances(self, data: str) -> list[float]:
        """What is added to variances; points in the plane are too many to need a choice."""
        return list(COVARIANCES[:1] if data in PLANAR else COVARIANCES)

    def fit(self, data: DensityData, seed: int, seconds: float) -> FittedDensity:
        start, dim, best, least = time.process_time(), data.dim, None, np.inf
        train, validation = data.train.numpy(), data.validation.numpy()
        for count in COMPONENTS:
            for added in self.covariances(data.name):
                mixture = GaussianMixture(count, reg_covar=added, random_state=seed)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    loss = -float(mixture.fit(train).score(validation))
                if loss < least:
                    best, least = mixture, loss
        assert best is not None
        chosen = {"components": best.n_components, "covariance": best.reg_covar}
        parameters = best.n_components * (1 + dim + dim * (dim + 1) // 2) - 1
        told = {"chosen": chosen, "validation": least, "steps": best.n_iter_}
        told |= {"parameters": parameters, "seconds": time.process_time() - start}
        return FittedDensity(lambda x: torch.from_numpy(best.score_samples(x.numpy())), told)


@dataclass(frozen=True)
class FlowMethod(DensityMethod):
    """A flow, whose settings share the time.

    Attributes:
        make: A flow with random weights of a number of columns and options.
    """

    make: Callable[..., RowDensity]

    def settings(self, data: str) -> tuple[FlowSetting, ...]:
        """Those that are tried on a data set."""
        return (PLANE if data in PLANAR else TABLE)[self.name]

    def recipe(self, data: str) -> dict[str, Any]:
        return {"tried": [each.told for each in self.settings(data)], "trials": TRIALS}

    def fit(self, data: DensityData, seed: int, seconds: float) -> FittedDensity:
        """Try settings for equal times, then fit with the best of them for the rest of it."""
        settings = self.settings(data.name)
        share = seconds * TRIALS / len(settings)
        found = [self._fit(data, each, seed, share) for each in settings]
        chosen = min(found, key=lambda trial: trial.loss).setting
        found.append(self._fit(data, chosen, seed, seconds * (1 - TRIALS)))
        best = min(found, key=lambda trial: trial.loss)
        model = best.model.double()
        told = {"chosen": best.setting.told, "validation": best.loss, "steps": best.steps}
        told |= {"skipped": sum(trial.skipped for trial in found), "best": best.best}
        told |= {"parameters": sum(p.numel() for p in model.parameters())}
        told |= {"seconds": sum(trial.seconds for trial in found)}
        return FittedDensity(model.log_prob, {**told, "losses": [t.loss for t in found]})

    def _fit(
        self, data: DensityData, setting: FlowSetting, seed: int, seconds: float
    ) -> FlowTrial:
        """Fit a new flow."""
        torch.manual_seed(seed)
        model = self.make(data.dim, **setting.options)
        return fit_rows(model, setting, data, seed, seconds)


METHODS: dict[str, DensityMethod] = {
    method.name: method
    for method in (
        GaussianMethod("gaussian", "Gaussian"),
        MixtureMethod("mixture", "mixture of Gaussians"),
        FlowMethod("masked_autoregressive", "masked autoregressive", partial(ZukoRows, "MAF")),
        FlowMethod("neural_spline", "neural spline", partial(ZukoRows, "NSF")),
        FlowMethod("tarflow", "TarFlow", VectorRows),
    )
}
"""By name."""
