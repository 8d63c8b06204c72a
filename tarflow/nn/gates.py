"""Gates on what attention returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from tarflow.errors import ConfigurationError
from tarflow.registry import Part

Vectors = Float[Tensor, "batch *window model_dim"]
Attended = Float[Tensor, "batch *window width"]


@dataclass(frozen=True)
class Gate(Part, ABC):
    """Describes a gate: makes a module of a layer's normalized input and what it attended to."""

    @abstractmethod
    def __call__(self, model_dim: int) -> nn.Module:
        """Make a module with `forward(x, attended)`, whose result goes into the last product."""

    def of_width(self, model_dim: int, width: int) -> nn.Module:
        """Make one where what was attended to has another width than the model.

        Raises:
            ConfigurationError: This kind of gate needs both to be the same.
        """
        raise ConfigurationError(
            f"num_heads: a {type(self).__name__} takes heads that are together as wide as the"
            f" model, {model_dim}, and not {width}. Leave num_heads out"
        )


@dataclass(frozen=True)
class SigmoidGate(Gate):
    r"""Each number is multiplied by one of $\sigma(W x)$, between 0 and 1 (arXiv 2505.06708)."""

    def __call__(self, model_dim: int) -> nn.Module:
        return self.of_width(model_dim, model_dim)

    def of_width(self, model_dim: int, width: int) -> nn.Module:
        return SigmoidGating(model_dim, width)


class SigmoidGating(nn.Module):
    """Multiplies what was attended to by the sigmoid of a linear map of the input."""

    def __init__(self, model_dim: int, width: int):
        super().__init__()
        self.linear = nn.Linear(model_dim, width)

    def forward(self, x: Vectors, attended: Attended) -> Attended:
        """Apply the gate."""
        return attended * self.linear(x).sigmoid()
