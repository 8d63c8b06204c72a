"""What likelihoods are reported in."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tarflow.flows.noise import UniformDequantization
from tarflow.flows.tar_flow import TarFlow


@dataclass(frozen=True)
class Unit:
    """What likelihoods are reported in.

    Attributes:
        name: In files.
        words: In tables.
        noise: Turns log-densities into bits; None for nats.
        num_dims: Number of dimensions of an image.
    """

    name: str
    words: str
    noise: UniformDequantization | None
    num_dims: int

    @classmethod
    def of(cls, flow: TarFlow, in_nats: bool) -> "Unit":
        """The unit for a flow."""
        if not isinstance(flow.noise, UniformDequantization):
            std = getattr(flow.noise, "std", None)
            return cls("noisy_nats_per_dim", f"nats/dim at sigma {std}", None, flow.num_dims)
        if in_nats:
            return cls("nats_per_dim", "nats/dim of dequantized pixels", None, flow.num_dims)
        return cls("bits_per_dim", "bits/dim", flow.noise, flow.num_dims)

    def __call__(self, log_prob: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
        """Log-densities in this unit, per dimension."""
        if self.noise is None:
            return -log_prob / self.num_dims
        return self.noise.bits_per_dim(log_prob, self.num_dims)
