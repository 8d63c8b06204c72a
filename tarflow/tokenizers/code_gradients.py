"""How gradients pass from the code of a vector to the vector itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tarflow.registry import Part
from tarflow.tokenizers.quantizers import quantizers

Vectors = Float[Tensor, "rows latent_channels"]


@dataclass(frozen=True)
class CodeGradient(Part, ABC):
    """Gives codes the gradient of the vectors that they are nearest to."""

    def __call__(self, vectors: Vectors, nearest: Vectors) -> Vectors:
        """The nearest codes to the bit, with gradients to the vectors and to no code."""
        return with_gradient(nearest, self.carried(vectors, nearest.detach()))

    @abstractmethod
    def carried(self, vectors: Vectors, nearest: Vectors) -> Vectors:
        """What has the gradients; its values do not matter."""


@dataclass(frozen=True)
class StraightThrough(CodeGradient):
    r"""The gradient of the code is that of the vector: $dL/de = dL/dq$ (arXiv 1308.3432)."""

    def carried(self, vectors: Vectors, nearest: Vectors) -> Vectors:
        return vectors


@dataclass(frozen=True)
class RotationTrick(CodeGradient):
    r"""The gradient turns as the vector has to, to become its code (arXiv 2410.06424).

    The code is $q = (|q| / |e|) R e$, with the rotation R from e to q; R and the ratio are
    constants to the gradient, which keeps its angle to the vector. Needs the package
    vector-quantize-pytorch.
    """

    def carried(self, vectors: Vectors, nearest: Vectors) -> Vectors:
        return quantizers().vector_quantize_pytorch.rotate_to(vectors, nearest)


def with_gradient(values: Float[Tensor, "..."], carried: Float[Tensor, "..."]) -> Tensor:
    """Values to the bit, with the gradient of something else of the same shape."""
    return values.detach() + (carried - carried.detach())
