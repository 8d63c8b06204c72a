"""Removing the Gaussian noise that a flow was trained with."""

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.context import Context
from tarflow.errors import ConfigurationError
from tarflow.flow import Flow
from tarflow.noise import GaussianNoise


@torch.no_grad()
def denoise(
    flow: Flow,
    x: Float[Tensor, "batch ..."],
    context: Context | Tensor | int | None = None,
    noise_std: float | None = None,
) -> Float[Tensor, "batch ..."]:
    r"""The mean of clean data given noisy data: $x + \sigma^2 \nabla \log p(x)$.

    This is Tweedie's formula (arXiv 2412.06329). It costs one forward and one backward pass, both
    parallel over positions.

    Args:
        flow: The density of noisy data.
        x: Noisy data, such as samples of the flow.
        context: What the density is conditioned on.
        noise_std: Standard deviation $\sigma$ of the noise; by default that of `flow.noise`.

    Raises:
        ConfigurationError: No standard deviation is given, and the flow knows none.
    """
    if noise_std is None:
        if not isinstance(flow.noise, GaussianNoise):
            raise ConfigurationError(
                f"this flow was trained with {flow.noise}, not with Gaussian noise:"
                " pass noise_std, the standard deviation to remove"
            )
        noise_std = flow.noise.std
    if not noise_std >= 0:
        raise ConfigurationError(f"noise_std {noise_std} is negative")
    return x + noise_std**2 * flow.score(x, context)
