"""What likelihoods are told in: bits where the density is one of what is stored, else nats."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tarflow.flows.codec import UniformDequantization
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise, NoNoise


def nats_per_dim(flow: Flow) -> str:
    """What negative log-densities per dimension are called: those of latents are others."""
    return f"nats_per_{'dim' if flow.codec is None else flow.codec.dim}"


@dataclass(frozen=True)
class Unit:
    """What the likelihoods of a flow are told in, per dimension: by name in files, else in words.

    The codec turns log-densities into bits; None means nats.
    """

    name: str
    words: str
    codec: UniformDequantization | None
    num_dims: int

    @classmethod
    def of(cls, flow: Flow, in_nats: bool = False, noise: Noise | None = None) -> "Unit":
        """The unit for a flow: bits with uniform dequantization alone, if nats are not wanted.

        Noise is what was added, where it is not that of the flow's training.
        """
        codec, noise = flow.codec, noise or flow.noise
        name, words = nats_per_dim(flow), "nats/dim"
        if codec is not None and codec.dim != "dim":
            words = f"nats per {codec.dim.replace('_', ' ').replace('dim', 'dimension')}"
        if not isinstance(noise, NoNoise):
            at = "noise" if noise is None else noise.words
            return cls(f"noisy_{name}", f"{words} at {at}", None, flow.num_dims)
        if not isinstance(codec, UniformDequantization):
            return cls(name, words, None, flow.num_dims)
        if in_nats:
            return cls("nats_per_dim", "nats/dim of dequantized pixels", None, flow.num_dims)
        return cls("bits_per_dim", "bits/dim", codec, flow.num_dims)

    def __call__(self, log_prob: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
        """Negative log-densities in this unit."""
        if self.codec is None:
            return -log_prob / self.num_dims
        return self.codec.bits_per_dim(log_prob, self.num_dims)
