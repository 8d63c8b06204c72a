"""Other densities on the same terms: zuko's and normflows' flows, and a Gaussian."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tarflow.data import ImageData
from tarflow.data.loading.batches import read_batch
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import UniformDequantization
from tarflow.flows.context import Context

HIDDEN = (256, 256)
"""Widths of the networks in all of them."""
NUM_COUPLINGS = 8
NUM_TRANSFORMS = 5
"""Of the masked autoregressive flow; what its authors use."""
NUM_SPLINES = 3
SHRINKAGE = 1e-4
"""Variance that is added to the Gaussian's; data that lies in a plane has none across it."""


class Baseline(nn.Module):
    """A density of images, seen as vectors, without labels.

    Args:
        image_shape: Channels, height and width.
        flow: Another package's flow, or a distribution.
        log_prob: Its log-densities of vectors.
        sample: Draws a number of vectors from it, by torch's generator.
        num_passes: Passes through a network that samples take, one after the other.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        flow: Any,
        log_prob: Callable[[Any, Tensor], Tensor],
        sample: Callable[[Any, int], Tensor],
        num_passes: int,
    ):
        super().__init__()
        self.image_shape, self.flow, self.num_passes = image_shape, flow, num_passes
        self._log_prob, self._sample = log_prob, sample

    def log_prob(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Log-densities."""
        return self._log_prob(self.flow, x.flatten(1))

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        """Draw images by torch's generator."""
        return self._sample(self.flow, num_samples).view(-1, *self.image_shape)


def gaussian(variant: object, data: ImageData) -> Baseline:
    """The normal distribution of the dequantized training images' mean and covariance."""
    train: Any = data.train
    stored, generator = read_batch(train, range(len(train))).x, torch.Generator().manual_seed(0)
    x = UniformDequantization(**vars(data.codec)).encode(stored, generator).flatten(1)
    covariance = x.T.cov() + SHRINKAGE * torch.eye(x.shape[1])
    distribution = torch.distributions.MultivariateNormal(x.mean(dim=0), covariance)
    return Baseline(
        data.image_shape,
        distribution,
        lambda flow, x: flow.log_prob(x),
        lambda flow, num_samples: flow.sample((num_samples,)),
        num_passes=1,
    )


def masked_autoregressive(variant: object, data: ImageData) -> Baseline:
    """zuko's MAF (Papamakarios et al., arXiv 1705.07057)."""
    return _of_zuko(
        data,
        lambda zuko, dims: zuko.flows.MAF(dims, 0, NUM_TRANSFORMS, hidden_features=HIDDEN),
        NUM_TRANSFORMS,
    )


def neural_spline(variant: object, data: ImageData) -> Baseline:
    """zuko's NSF, autoregressive (Durkan et al., arXiv 1906.04032)."""
    return _of_zuko(
        data,
        lambda zuko, dims: zuko.flows.NSF(dims, 0, transforms=NUM_SPLINES, hidden_features=HIDDEN),
        NUM_SPLINES,
    )


def real_nvp(variant: object, data: ImageData) -> Baseline:
    """A RealNVP of normflows with fully connected networks (Dinh et al., arXiv 1605.08803)."""
    normflows = _imported("normflows")
    dims = prod(data.image_shape)
    half = dims // 2
    layers = []
    for _ in range(NUM_COUPLINGS):
        network = normflows.nets.MLP([half, *HIDDEN, 2 * (dims - half)], init_zeros=True)
        layers.append(normflows.flows.AffineCouplingBlock(network))
        layers.append(normflows.flows.Permute(dims))
    base = normflows.distributions.DiagGaussian(dims, trainable=False)
    return Baseline(
        data.image_shape,
        normflows.NormalizingFlow(base, layers),
        lambda flow, x: flow.log_prob(x),
        lambda flow, num_samples: flow.sample(num_samples)[0],
        NUM_COUPLINGS,
    )


def _of_zuko(data: ImageData, make: Callable[..., nn.Module], transforms: int) -> Baseline:
    """A flow of zuko for images."""
    dims = prod(data.image_shape)
    return Baseline(
        data.image_shape,
        make(_imported("zuko"), dims),
        lambda flow, x: flow().log_prob(x),
        lambda flow, num_samples: flow().sample((num_samples,)),
        dims * transforms,
    )


def _imported(package: str) -> Any:
    """A package of the extra."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigurationError(
            f"this baseline needs {package}, which is not installed: pip install"
            " 'tarflow[baselines]', or leave it out of variants=..."
        ) from error
