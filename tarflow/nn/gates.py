"""Gates on what attention returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from tarflow.registry import Part

Vectors = Float[Tensor, "batch *window model_dim"]


@dataclass(frozen=True)
class Gate(Part, ABC):
    """Describes a gate: makes a module of a layer's normalized input and what it attended to."""

    @abstractmethod
    def __call__(self, model_dim: int) -> nn.Module:
        """Make a module with `forward(x, attended)`, whose result goes into the last product."""


@dataclass(frozen=True)
class SigmoidGate(Gate):
    r"""Each number is multiplied by one of $\sigma(W x)$, between 0 and 1 (arXiv 2505.06708)."""

    def __call__(self, model_dim: int) -> nn.Module:
        return SigmoidGating(model_dim)


class SigmoidGating(nn.Module):
    """Multiplies what was attended to by the sigmoid of a linear map of the input."""

    def __init__(self, model_dim: int):
        super().__init__()
        self.linear = nn.Linear(model_dim, model_dim)

    def forward(self, x: Vectors, attended: Vectors) -> Vectors:
        """Apply the gate."""
        return attended * self.linear(x).sigmoid()
