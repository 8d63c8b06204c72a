"""What likelihoods are told in: bits where the density is one of what is stored, else nats."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tarflow.flows.codec import UniformDequantization
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise, NoNoise


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
        dim = "dim" if codec is None else codec.dim
        words = "nats/dim" if dim == "dim" else f"nats per {dim.replace('_', ' ')}"
        if not isinstance(noise, NoNoise):
            at = "noise" if noise is None else noise.words
            return cls(f"noisy_nats_per_{dim}", f"{words} at {at}", None, flow.num_dims)
        if not isinstance(codec, UniformDequantization):
            return cls(f"nats_per_{dim}", words, None, flow.num_dims)
        if in_nats:
            return cls("nats_per_dim", "nats/dim of dequantized pixels", None, flow.num_dims)
        return cls("bits_per_dim", "bits/dim", codec, flow.num_dims)

    def __call__(self, log_prob: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
        """Negative log-densities in this unit."""
        if self.codec is None:
            return -log_prob / self.num_dims
        return self.codec.bits_per_dim(log_prob, self.num_dims)
