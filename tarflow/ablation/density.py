"""What is fitted and judged: a density of noisy images that can be sampled from."""

from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor


class Density(Protocol):
    """What flows and baselines have in common; all of them are torch modules."""

    def log_prob(
        self, x: Float[Tensor, "batch ..."], label: Int[Tensor, " batch"] | None, /
    ) -> Float[Tensor, " batch"]:
        """Log-densities, in nats."""
        ...
