"""Importance weights: samples of a flow made those of another density, known but for a factor."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tarflow.arguments import check_integer
from tarflow.errors import ConfigurationError
from tarflow.flows.context import ContextLike
from tarflow.flows.decoding import DecodeKeywords, DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.shapes import Examples, PerExample
from tarflow.randomness import RandomSource

Energy = Callable[[Tensor], Tensor]
"""Maps examples to a number each, which is minus a log-density but for a constant; in nats."""


@dataclass(frozen=True)
class ImportanceSample:
    r"""Samples x of a flow q with the weights $w = e^{-E(x)} / q(x)$.

    Attributes:
        x: The samples.
        log_prob: Their log-density under the flow, in nats.
        log_weight: Logarithms of their weights; minus infinity where an energy is infinite.
    """

    x: Examples
    log_prob: PerExample
    log_weight: PerExample

    @property
    def weight(self) -> PerExample:
        """Weights that sum to 1."""
        return self.log_weight.softmax(dim=0)

    @property
    def effective_sample_size(self) -> float:
        r"""$(\sum w)^2 / \sum w^2$ as a share of the number of samples, from 0 to 1."""
        return float(1 / (self.weight.square().sum() * len(self.weight)))

    @property
    def log_normalizer(self) -> float:
        r"""An estimate of $\log \int e^{-E(x)} dx$, in nats."""
        return float(self.log_weight.logsumexp(dim=0)) - math.log(len(self.x))

    def mean(self, values: Float[Tensor, "batch *shape"]) -> Float[Tensor, "*shape"]:
        """The mean over the other density of what was computed of each sample."""
        return torch.einsum("b,b...->...", self.weight.to(values.dtype), values)

    def resampled(self, num_samples: int, source: torch.Generator | None = None) -> Examples:
        """Samples of about the other density: draws from these by weight, evenly spaced.

        Args:
            num_samples: Number of samples.
            source: Where the one number that is drawn comes from; on the CPU.
        """
        check_integer("num_samples", num_samples, least=0)
        return self.x[resampled_rows(self.weight, num_samples, source)]


def resampled_rows(
    weight: PerExample, num_samples: int, source: torch.Generator | None
) -> Int[Tensor, " drawn"]:
    """Draw rows by weights that sum to 1: evenly spaced, from one number that is drawn."""
    start = torch.rand((), generator=source, dtype=torch.float64)
    places = (torch.arange(num_samples) + start) / max(num_samples, 1)
    ends = weight.double().cumsum(dim=0)
    return torch.searchsorted(ends, places.to(ends.device)).clamp(max=len(ends) - 1)


@torch.no_grad()
def importance_weights(
    flow: Flow,
    energy: Energy,
    num_samples: int,
    context: ContextLike = None,
    *,
    source: RandomSource = None,
    options: DecodeOptions = DecodeOptions(),
    **keywords: Unpack[DecodeKeywords],
) -> ImportanceSample:
    r"""Draw samples of a flow, and weigh them as those of the density $e^{-E(x)} / Z$.

    Example:
        >>> from tarflow import TarFlow
        >>> flow = TarFlow.for_vectors(2, num_layers=1, model_dim=32, head_dim=16)
        >>> found = importance_weights(flow, lambda x: x.square().sum(dim=1) / 2, 100)
        >>> round(found.effective_sample_size, 3)  # a fresh flow is a standard normal
        1.0

    Args:
        flow: The flow.
        energy: Maps a batch of examples to their energies, in nats.
        num_samples: Number of samples.
        context: What the flow is conditioned on.
        source: Where draws come from.
        options: How to decode, without guidance.
        **keywords: The fields of `DecodeOptions` to be other than in the options.

    Raises:
        ConfigurationError: Energies are not one number for each example, or NaN; or there is
            guidance, whose density is not known.
    """
    check_integer("num_samples", num_samples, least=1)
    options = DecodeOptions.of(options, keywords)
    if options.guidance is not None:
        raise ConfigurationError("guided samples have no known density: leave guidance out")
    x, log_prob = flow.sample_and_log_prob(num_samples, context, source=source, options=options)
    energies = energy(x)
    if energies.shape != log_prob.shape:
        raise ConfigurationError(
            f"energies of shape {tuple(energies.shape)} for {num_samples} examples: let the energy"
            " return one number for each"
        )
    if energies.isnan().any():
        raise ConfigurationError("an energy is NaN: let it be infinite where x cannot be")
    return ImportanceSample(x, log_prob, -energies - log_prob)
