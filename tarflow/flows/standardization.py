"""Transforms that standardize numbers: they are fitted to data before a flow is trained."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.position_conditioning import MaskConditioner
from tarflow.flows.report import Inverse
from tarflow.flows.shapes import Examples, PerExample
from tarflow.flows.transforms import Transform
from tarflow.registry import Part

LEAST_SHRINKAGE = 1e-6
"""Least share of the identity in a covariance, for columns that follow from others."""


class FittedTransform(Transform):
    """A transform that is fitted to data, not trained; what it learns is kept with the weights."""

    @abstractmethod
    def fit(self, x: Examples, mask: Bool[Tensor, "batch length"] | None = None) -> None:
        """Learn from training data, of the positions that are there.

        Raises:
            ConfigurationError: It cannot be fitted to these data; says why.
        """


class Standardization(FittedTransform):
    """Takes off a mean and divides by a standard deviation, for each column.

    At first they are 0 and 1. A column that is constant, or holds what is not finite, is refused.

    Args:
        size: Number of columns.
        length: Number of positions whose vectors have these columns; None for vectors alone.
    """

    mean: Float[Tensor, " size"]
    std: Float[Tensor, " size"]

    def __init__(self, size: int, length: int | None = None):
        super().__init__()
        self.conditioners = () if length is None else (MaskConditioner(length),)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @torch.no_grad()
    def fit(self, x: Examples, mask: Bool[Tensor, "batch length"] | None = None) -> None:
        rows = x.flatten(0, -2) if mask is None else x[mask]
        mean, std = rows.double().mean(dim=0), rows.double().std(dim=0, correction=0)
        for column in range(len(mean)):
            if not std[column].isfinite():
                raise ConfigurationError(f"column {column} holds numbers that are not finite")
            if std[column] <= 1e-12 * mean[column].abs():
                raise ConfigurationError(
                    f"column {column} is constant, {float(mean[column]):g}, and has no density:"
                    " leave it out"
                )
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, PerExample]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return (x - self.mean) / self.std, self._log_det(x, context)

    def inverse(
        self, z: Tensor, context: Context, options: DecodeOptions = DecodeOptions()
    ) -> Inverse:
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return Inverse(z * self.std + self.mean, self._log_det(z, context))

    def _log_det(self, x: Tensor, context: Context) -> PerExample:
        """The log-determinant of examples, of the positions that are there."""
        mask, one = context.get("mask"), -self.std.log().sum().to(x.dtype)
        if mask is not None:
            return one * mask.sum(dim=1)
        return (one * x.shape[1:-1].numel()).expand(x.shape[0])


class Decorrelation(FittedTransform):
    r"""Takes off each number what the ones before it tell of it linearly: $z = L^{-1} x$.

    $L L^\top$ is the covariance of standardized numbers, shrunk towards the identity by as much
    as Ledoit and Wolf find best for so few examples (Journal of Multivariate Analysis 88, 2004). A
    flow then begins as a normal density with all correlations, and learns only what else there is.

    Args:
        size: Size of the vectors.
    """

    factor: Float[Tensor, "size size"]

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("factor", torch.eye(size))

    @torch.no_grad()
    def fit(
        self, x: Float[Tensor, "batch size"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> None:
        x = x.double()
        covariance, one = x.T @ x / len(x), torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        share = shrinkage(x, covariance)
        self.factor.copy_(torch.linalg.cholesky((1 - share) * covariance + share * one))

    def forward(
        self, x: Float[Tensor, "batch size"], context: Context
    ) -> tuple[Float[Tensor, "batch size"], PerExample]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        factor = self.factor.to(x.dtype)
        z = torch.linalg.solve_triangular(factor.T, x, upper=True, left=False)
        return z, self._log_det(x)

    def inverse(
        self,
        z: Float[Tensor, "batch size"],
        context: Context,
        options: DecodeOptions = DecodeOptions(),
    ) -> Inverse:
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        with torch.autocast(z.device.type, enabled=False):
            return Inverse(z @ self.factor.to(z.dtype).T, self._log_det(z))

    def _log_det(self, x: Tensor) -> PerExample:
        """The log-determinant of examples."""
        return -self.factor.diagonal().log().sum().to(x.dtype).expand(len(x))


class Normalization(Part, ABC):
    """How numbers of vectors are normalized before the transforms that are trained."""

    @abstractmethod
    def transforms(self, size: int) -> list[Transform]:
        """What is to be fitted to training data, for vectors of a size."""


@dataclass(frozen=True)
class ColumnNormalization(Normalization):
    """Each column by itself: by its mean and its standard deviation."""

    def transforms(self, size: int) -> list[Transform]:
        return [Standardization(size)]


@dataclass(frozen=True)
class Whitening(Normalization):
    """All columns together: by mean, standard deviation and the factor of their correlations.

    It helps where columns are correlated and few examples are there to learn that from, and harms
    where columns have values of their own, such as whole numbers.
    """

    def transforms(self, size: int) -> list[Transform]:
        return [Standardization(size), Decorrelation(size)]


def shrinkage(
    x: Float[Tensor, "batch size"], covariance: Float[Tensor, "size size"]
) -> Float[Tensor, ""]:
    """The share of the identity in a covariance of centred examples, by Ledoit and Wolf."""
    spread = covariance.square().sum()
    one = torch.eye(len(covariance), dtype=x.dtype, device=x.device)
    distance = (covariance - one).square().sum()
    error = (x.square().sum(dim=1).square().mean() - spread) / len(x)
    return (error / distance).nan_to_num(nan=0.0).clamp(LEAST_SHRINKAGE, 1.0)
