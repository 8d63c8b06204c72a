"""What is fitted and judged: a density of noisy images that can be sampled from."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.flows.codec import Codec
from tarflow.flows.context import Context
from tarflow.flows.noise import Noise


class Density(Protocol):
    """What flows and baselines have in common; all of them are torch modules."""

    def log_prob(
        self, x: Float[Tensor, "batch ..."], context: Context | None, /
    ) -> Float[Tensor, " batch"]:
        """Log-densities, in nats."""
        ...


@dataclass(frozen=True)
class Encoding:
    """Makes of stored images what densities are fitted to.

    Attributes:
        codec: What the stored numbers mean.
        noise: What is added.
    """

    codec: Codec
    noise: Noise

    def __call__(self, stored: Tensor, source: torch.Generator | None = None) -> Tensor:
        """Noisy images; draws come from torch's global generator unless there is a source."""
        return self.noise(self.codec.encode(stored, source), source)
