"""Ways to invert an autoregressive transform."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.affine import Affine
from tarflow.guidance import Guidance

Predict = Callable[[Float[Tensor, "batch window patch_dim"], int], Affine]
"""Given final values at positions `start ...`, predicts the maps one position further on."""


class Decoder(ABC):
    """Finds the x that an autoregressive transform maps to a given z."""

    @abstractmethod
    def __call__(
        self, predict: Predict, z: Float[Tensor, "batch length patch_dim"]
    ) -> Float[Tensor, "batch length patch_dim"]:
        """Decode a batch.

        Args:
            predict: The transform's prediction, guided or not; it keeps its own cache.
            z: The noise.
        """


@dataclass(frozen=True)
class Sequential(Decoder):
    """One position after the other: exact, in one step fewer than there are positions."""

    def __call__(self, predict, z):
        x = [z[:, :1]]
        for position in range(z.shape[1] - 1):
            x.append(predict(x[-1], position).to_data(z[:, position + 1 : position + 2]))
        return torch.cat(x, dim=1)


@dataclass(frozen=True)
class Decoding:
    """How to invert a flow, carried from transform to transform.

    Attributes:
        decoder: How an autoregressive transform is inverted.
        guidance: The rule that guides predictions; None for none.
        depth: How many autoregressive transforms were inverted before.
    """

    decoder: Decoder = Sequential()
    guidance: Guidance | None = None
    depth: int = 0

    @property
    def active_guidance(self) -> Guidance | None:
        """The guidance, where it acts at this depth."""
        if self.guidance is not None and self.guidance.acts_at(self.depth):
            return self.guidance
        return None

    def deeper(self, num_decoded: int) -> "Decoding":
        """The same, after some more autoregressive transforms were inverted."""
        return replace(self, depth=self.depth + num_decoded)
