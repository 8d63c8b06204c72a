"""The shapes that the signatures of flows share."""

from jaxtyping import Float, Shaped
from torch import Tensor

Examples = Float[Tensor, "batch ..."]
"""Data in a shape of its own, such as images: one row for each example."""

Sequences = Float[Tensor, "batch length patch_dim"]
"""Data or noise as sequences of vectors."""

PerExample = Float[Tensor, " batch"]
"""A number for each example, such as a density."""

PerPosition = Float[Tensor, " length"]
"""A number for each position of a sequence."""

ByPosition = Shaped[Tensor, "batch length *numbers"]
"""Something of each position of sequences."""
