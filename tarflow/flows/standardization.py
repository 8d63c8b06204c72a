"""The transform that standardizes numbers."""

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


class Standardization(Transform):
    """Takes off a mean and divides by a standard deviation, for each column.

    They are kept with the weights; at first they are 0 and 1.

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
        """Take mean and deviation of training data, of the positions that are there.

        Raises:
            ConfigurationError: A column is constant, or holds what is not finite.
        """
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
