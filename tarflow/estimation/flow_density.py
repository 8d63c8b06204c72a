"""A TarFlow as scikit-learn knows estimators of densities."""

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from tarflow.estimation.likelihood_fit import LikelihoodFit
from tarflow.flows.affine import Scale
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.spline import SplineScale
from tarflow.flows.standardization import ColumnNormalization, Normalization
from tarflow.flows.supports import Real, Support
from tarflow.flows.vector_flow import VectorFlow


class TarFlowDensity(DensityMixin, BaseEstimator):
    """The density of rows of a table, by a `VectorFlow`, as an estimator of scikit-learn.

    Columns are standardized within the flow. Densities and samples are computed in float64.

    Args:
        supports: Where numbers may lie: one `Support` for all columns, or one after the other; by
            default any real number.
        num_transforms: Number of autoregressive transforms.
        num_layers: Number of transformer layers in each.
        model_dim: Width of the transformers.
        head_dim: Width of an attention head; it divides `model_dim`.
        token_dim: How many numbers are one position of the transformers.
        scale: How outputs of a transformer become maps; by default `SplineScale()`, of which two
            transforms do what eight of affine maps do not.
        normalization: How columns are normalized first; by default each by itself. `Whitening()`
            is worth trying for correlated columns.
        dropout: Probability of dropping attention weights and MLP outputs in training.
        batch_size: Number of rows in a step.
        lr: Peak learning rate.
        max_steps: Largest number of steps.
        validation_fraction: Share of the rows that are held out, to stop by.
        patience: Number of looks at these, 50 steps apart, without improvement before the end.
        random_state: A seed or generator of NumPy, for weights, batches and samples.
        verbose: Whether a bar tells of the fit.
        device: Where to compute.

    Attributes:
        flow_: The flow, in float64.
        history_: What the fit was like.
        n_features_in_: Number of columns.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> density = TarFlowDensity(max_steps=20, model_dim=16, head_dim=8, random_state=0).fit(X)
        >>> density.score_samples(X).shape, density.sample(3).shape
        ((200,), (3, 2))
    """

    @no_type_check  # scikit-learn demands that wrong ones show in `fit`
    def __init__(
        self,
        supports: Support | Sequence[Support] | None = None,
        *,
        num_transforms: int = 2,
        num_layers: int = 2,
        model_dim: int = 64,
        head_dim: int = 16,
        token_dim: int = 1,
        scale: Scale | None = None,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
        batch_size: int = 128,
        lr: float = 5e-3,
        max_steps: int = 3000,
        validation_fraction: float = 0.1,
        patience: int = 10,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        device: str = "cpu",
    ):
        self.supports = supports
        self.num_transforms = num_transforms
        self.num_layers = num_layers
        self.model_dim = model_dim
        self.head_dim = head_dim
        self.token_dim = token_dim
        self.scale = scale
        self.normalization = normalization
        self.dropout = dropout
        self.batch_size = batch_size
        self.lr = lr
        self.max_steps = max_steps
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def fit(self, X: Any, y: Any = None, weight: Any = None) -> "TarFlowDensity":
        """Fit the density of the rows of a table.

        Args:
            X: The table.
            y: Not used: scikit-learn passes it.
            weight: What each row counts for; by default all the same.

        Raises:
            ConfigurationError: A column is constant, or outside of its support.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        random = check_random_state(self.random_state)
        source = torch.Generator().manual_seed(int(random.randint(2**31)))
        with torch.random.fork_rng(devices=[]):  # of weights, which torch draws from its own
            torch.manual_seed(int(random.randint(2**31)))
            flow = self._make(X.shape[1])
        fit = LikelihoodFit(
            batch_size=self.batch_size,
            lr=self.lr,
            max_steps=self.max_steps,
            validation_fraction=self.validation_fraction,
            patience=self.patience,
            progress=self.verbose,
        )
        x = torch.tensor(X, dtype=torch.float64, device=self.device)
        weight = None if weight is None else torch.as_tensor(np.asarray(weight))
        self.history_ = fit(flow.to(self.device), x, None, weight, source)
        self.flow_ = flow.double()
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row, in nats; minus infinity outside of the support."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        x = torch.tensor(X, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            parts = [self.flow_.log_prob(part) for part in x.split(4 * self.batch_size)]
        return torch.cat(parts).cpu().numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of rows, in nats."""
        return float(self.score_samples(X).mean())

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> np.ndarray:
        """Draw rows; by default those of the estimator's own `random_state`."""
        check_is_fitted(self)
        random = check_random_state(self.random_state if random_state is None else random_state)
        source = torch.Generator().manual_seed(int(random.randint(2**31)))
        options = DecodeOptions().prepared()
        parts = torch.empty(n_samples).split(4 * self.batch_size)
        drawn = [self.flow_.sample(len(part), source=source, options=options) for part in parts]
        return torch.cat(drawn).cpu().numpy()

    def _make(self, dim: int) -> VectorFlow:
        """A flow with random weights."""
        return VectorFlow(
            dim,
            Real() if self.supports is None else self.supports,
            self.token_dim,
            normalization=self.normalization or ColumnNormalization(),
            scale=self.scale or SplineScale(),
            num_transforms=self.num_transforms,
            num_layers=self.num_layers,
            model_dim=self.model_dim,
            head_dim=self.head_dim,
            dropout=self.dropout,
        )
