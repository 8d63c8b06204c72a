"""A layer whose attention and MLP read the same input."""

from dataclasses import dataclass

from torch import Tensor, nn

from tarflow import Layer
from tarflow.nn.attention import WHOLE, CausalSelfAttention, Window


class ParallelBlock(nn.Module):
    """Adds attention and a gated MLP to the input at once."""

    def __init__(self, model_dim: int, head_dim: int, expansion: int, dropout: float, index: int):
        super().__init__()
        self.norm = nn.RMSNorm(model_dim)
        self.attention = CausalSelfAttention(model_dim, head_dim, dropout, index)
        self.up = nn.Linear(model_dim, 2 * expansion * model_dim)
        self.down = nn.Linear(expansion * model_dim, model_dim)

    def forward(self, x: Tensor, window: Window = WHOLE) -> Tensor:
        h = self.norm(x)
        gate, value = self.up(h).chunk(2, dim=-1)
        return x + self.attention(h, window) + self.down(nn.functional.silu(gate) * value)


@dataclass(frozen=True)
class Parallel(Layer):
    """Describes a `ParallelBlock`."""

    def __call__(
        self, model_dim: int, head_dim: int, expansion: int, dropout: float, index: int
    ) -> nn.Module:
        return ParallelBlock(model_dim, head_dim, expansion, dropout, index)
