"""Other densities on the same terms: zuko's and normflows' flows, and a Gaussian."""

from collections.abc import Callable
from importlib import import_module
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tarflow.data import ImageData
from tarflow.data.loading.batches import read_batch
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import UniformDequantization
from tarflow.flows.context import Context
from tarflow.flows.noise import NoNoise
from tarflow.randomness import RandomSource

HIDDEN = (256, 256)
"""Widths of the networks in all of them."""
NUM_COUPLINGS = 8
SHRINKAGE = 1e-4
"""Variance that is added to the Gaussian's; data that lies in a plane has none across it."""


class Baseline(nn.Module):
    """A density of dequantized images, seen as vectors, without labels.

    Args:
        data: The images.
        flow: Called, it returns a distribution of vectors, as zuko's flows do.
        num_passes: Passes through a network that samples take, one after the other.
    """

    def __init__(self, data: ImageData, flow: Callable[..., Any], num_passes: int = 1):
        super().__init__()
        self.image_shape, self.flow, self.num_passes = data.image_shape, flow, num_passes
        self.codec, self.noise = UniformDequantization(**vars(data.codec)), NoNoise()

    def observe(
        self, stored: Tensor, context: Context = Context(), source: RandomSource = None
    ) -> tuple[Tensor, Context]:
        """Stored images as the data whose density this is; it has no conditions."""
        return self.codec.encode(stored, source), Context()

    def log_prob(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Log-densities."""
        return self.flow().log_prob(x.flatten(1))

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        """Draw images by torch's generator."""
        return self.flow().sample((num_samples,)).view(-1, *self.image_shape)


class NormFlowsBaseline(Baseline):
    """A flow of normflows, which is a distribution itself."""

    def log_prob(self, x: Tensor, context: Context | None = None) -> Tensor:
        return self.flow.log_prob(x.flatten(1))

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        return self.flow.sample(num_samples)[0].view(-1, *self.image_shape)


def gaussian(data: ImageData) -> Baseline:
    """The normal distribution of the dequantized training images' mean and covariance."""
    train: Any = data.train
    stored, generator = read_batch(train, range(len(train))).x, torch.Generator().manual_seed(0)
    x = UniformDequantization(**vars(data.codec)).encode(stored, generator).flatten(1)
    covariance = x.T.cov() + SHRINKAGE * torch.eye(x.shape[1])
    distribution = torch.distributions.MultivariateNormal(x.mean(dim=0), covariance)
    return Baseline(data, lambda: distribution)


def masked_autoregressive(data: ImageData) -> Baseline:
    """zuko's MAF (Papamakarios et al., arXiv 1705.07057)."""
    return _of_zuko("MAF", data, 5)  # transforms, as its authors take


def neural_spline(data: ImageData) -> Baseline:
    """zuko's NSF, autoregressive (Durkan et al., arXiv 1906.04032)."""
    return _of_zuko("NSF", data, 3)


def real_nvp(data: ImageData) -> Baseline:
    """A RealNVP of normflows with fully connected networks (Dinh et al., arXiv 1605.08803)."""
    normflows = imported("normflows")
    dims = prod(data.image_shape)
    half = dims // 2
    layers = []
    for _ in range(NUM_COUPLINGS):
        network = normflows.nets.MLP([half, *HIDDEN, 2 * (dims - half)], init_zeros=True)
        layers.append(normflows.flows.AffineCouplingBlock(network))
        layers.append(normflows.flows.Permute(dims))
    base = normflows.distributions.DiagGaussian(dims, trainable=False)
    return NormFlowsBaseline(data, normflows.NormalizingFlow(base, layers), NUM_COUPLINGS)


BASELINES = (gaussian, real_nvp, masked_autoregressive, neural_spline)


def _of_zuko(name: str, data: ImageData, transforms: int) -> Baseline:
    """A flow of zuko for images."""
    dims, make = prod(data.image_shape), getattr(imported("zuko").flows, name)
    flow = make(dims, transforms=transforms, hidden_features=HIDDEN)
    return Baseline(data, flow, dims * transforms)


def imported(package: str) -> Any:
    """A package of the extra."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigurationError(
            f"this baseline needs {package}, which is not installed: pip install"
            " 'tarflow[baselines]', or leave it out"
        ) from error
