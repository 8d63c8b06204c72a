"""What likelihoods are reported in."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tarflow.flows.codec import UniformDequantization
from tarflow.flows.flow import Flow
from tarflow.flows.noise import NoNoise


@dataclass(frozen=True)
class Unit:
    """What likelihoods are reported in.

    Attributes:
        name: In files.
        words: In tables.
        codec: Turns log-densities into bits; None for nats.
        num_dims: Number of dimensions of an example.
    """

    name: str
    words: str
    codec: UniformDequantization | None
    num_dims: int

    @classmethod
    def of(cls, flow: Flow, in_nats: bool = False) -> "Unit":
        """The unit for a flow: bits where its density is one of discrete data without noise."""
        if not isinstance(flow.noise, NoNoise):
            std = getattr(flow.noise, "std", None)
            return cls("noisy_nats_per_dim", f"nats/dim at sigma {std}", None, flow.num_dims)
        if in_nats or not isinstance(flow.codec, UniformDequantization):
            return cls("nats_per_dim", "nats/dim of encoded data", None, flow.num_dims)
        return cls("bits_per_dim", "bits/dim", flow.codec, flow.num_dims)

    def __call__(self, log_prob: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
        """Log-densities in this unit, per dimension."""
        if self.codec is None:
            return -log_prob / self.num_dims
        return self.codec.bits_per_dim(log_prob, self.num_dims)
