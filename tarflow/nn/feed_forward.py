"""What layers do at each position by itself: a network of one hidden layer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.errors import ConfigurationError
from tarflow.registry import Part


@dataclass(frozen=True)
class FeedForward(Part, ABC):
    """Describes a kind of network that maps each position's vector to one of the same size."""

    @abstractmethod
    def __call__(self, model_dim: int, expansion: int, dropout: float) -> nn.Module:
        """Make one with as many weights as two matrices with a hidden layer in between have.

        That is `expansion` times as wide as the model; outputs are dropped in training.
        """

    def of_width(self, model_dim: int, hidden_dim: int, dropout: float) -> nn.Module:
        """Make one whose hidden layer has a width of its own.

        Raises:
            ConfigurationError: This kind of network has no such width.
        """
        raise ConfigurationError(
            f"hidden_dims {hidden_dim}: a {type(self).__name__} has no hidden layer whose width"
            " could be given. Leave hidden_dims out"
        )


@dataclass(frozen=True)
class GeluMLP(FeedForward):
    r"""$W_2 \, \mathrm{gelu}(W_1 x)$, as in TarFlow (GELU: arXiv 1606.08415)."""

    def __call__(self, model_dim: int, expansion: int, dropout: float) -> nn.Module:
        return self.of_width(model_dim, expansion * model_dim, dropout)

    def of_width(self, model_dim: int, hidden_dim: int, dropout: float) -> nn.Module:
        return MLP(model_dim, hidden_dim, dropout)


@dataclass(frozen=True)
class SwiGLU(FeedForward):
    r"""$W_3 (\mathrm{silu}(W_1 x) \odot W_2 x)$ (arXiv 2002.05202).

    With three matrices the hidden layer is two thirds as wide, in multiples of 8, which tensor
    cores take.
    """

    def __call__(self, model_dim: int, expansion: int, dropout: float) -> nn.Module:
        hidden = max(1, round(expansion * model_dim / 12)) * 8
        return self.of_width(model_dim, hidden, dropout)

    def of_width(self, model_dim: int, hidden_dim: int, dropout: float) -> nn.Module:
        return GatedMLP(model_dim, hidden_dim, dropout)


class MLP(nn.Sequential):
    """Two linear layers around a GELU."""

    def __init__(self, model_dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__(
            nn.Linear(model_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, model_dim),
            nn.Dropout(dropout),
        )


class GatedMLP(nn.Module):
    """A hidden layer whose entries are multiplied by the SiLU of others; both are one product."""

    def __init__(self, model_dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.up = nn.Linear(model_dim, 2 * hidden_dim)
        self.down = nn.Linear(hidden_dim, model_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch *window model_dim"]
    ) -> Float[Tensor, "batch *window model_dim"]:
        """Apply the network."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.dropout(self.down(F.silu(gate) * value))
