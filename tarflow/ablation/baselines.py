"""Other densities on the same terms: zuko's and normflows' flows, and a Gaussian."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Float
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
        num_passes: Passes through a network that samples take, one after the other.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_passes: int):
        super().__init__()
        self.image_shape = image_shape
        self.num_passes = num_passes
        self.num_dims = prod(image_shape)


class Gaussian(Baseline):
    """The normal distribution of the data's mean and covariance: nothing is left to be fitted."""

    def __init__(self, image_shape: tuple[int, int, int], x: Float[Tensor, "num dims"]):
        super().__init__(image_shape, 1)
        covariance = x.T.cov() + SHRINKAGE * torch.eye(x.shape[1])
        self.distribution = torch.distributions.MultivariateNormal(x.mean(dim=0), covariance)

    @classmethod
    def fitted(cls, variant: object, data: ImageData) -> "Gaussian":
        """That of the training images, dequantized."""
        train: Any = data.train
        stored = read_batch(train, range(len(train))).x
        generator = torch.Generator().manual_seed(0)
        x = UniformDequantization(**vars(data.codec)).encode(stored, generator)
        return cls(data.image_shape, x.flatten(1))

    def log_prob(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Log-densities."""
        return self.distribution.log_prob(x.flatten(1))

    def sample(self, num_samples: int) -> Tensor:
        """Draw images by torch's generator."""
        return self.distribution.sample((num_samples,)).view(-1, *self.image_shape)


class ZukoFlow(Baseline):
    """A flow of zuko."""

    def __init__(self, image_shape: tuple[int, int, int], flow: nn.Module, num_passes: int):
        super().__init__(image_shape, num_passes)
        self.flow: Any = flow

    def log_prob(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Log-densities."""
        return self.flow().log_prob(x.flatten(1))

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        """Draw images by torch's generator."""
        return self.flow().sample((num_samples,)).view(-1, *self.image_shape)


class NormflowsFlow(Baseline):
    """A flow of normflows."""

    def __init__(self, image_shape: tuple[int, int, int], flow: nn.Module, num_passes: int):
        super().__init__(image_shape, num_passes)
        self.flow: Any = flow

    def log_prob(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Log-densities."""
        return self.flow.log_prob(x.flatten(1))

    @torch.no_grad()
    def sample(self, num_samples: int) -> Tensor:
        """Draw images by torch's generator."""
        return self.flow.sample(num_samples)[0].view(-1, *self.image_shape)


def masked_autoregressive(variant: object, data: ImageData) -> ZukoFlow:
    """zuko's MAF (Papamakarios et al., arXiv 1705.07057)."""
    return _of_zuko(
        data,
        lambda zuko, dims: zuko.flows.MAF(dims, 0, NUM_TRANSFORMS, hidden_features=HIDDEN),
        NUM_TRANSFORMS,
    )


def neural_spline(variant: object, data: ImageData) -> ZukoFlow:
    """zuko's NSF, autoregressive (Durkan et al., arXiv 1906.04032)."""
    return _of_zuko(
        data,
        lambda zuko, dims: zuko.flows.NSF(dims, 0, transforms=NUM_SPLINES, hidden_features=HIDDEN),
        NUM_SPLINES,
    )


def real_nvp(variant: object, data: ImageData) -> NormflowsFlow:
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
    flow = normflows.NormalizingFlow(base, layers)
    return NormflowsFlow(data.image_shape, flow, NUM_COUPLINGS)


def _of_zuko(data: ImageData, make: Callable[..., nn.Module], transforms: int) -> ZukoFlow:
    """A flow of zuko for images."""
    dims = prod(data.image_shape)
    return ZukoFlow(data.image_shape, make(_imported("zuko"), dims), dims * transforms)


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
