"""What decoding asks a transform for: the maps of the next positions, guided or not."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tarflow.flows.affine import Affine, Scale, Vectors
from tarflow.flows.decoding import Predict
from tarflow.flows.guidance import Guidance
from tarflow.flows.shapes import PerExample
from tarflow.nn.attention import Fronts, KVCache, Start, Window
from tarflow.nn.networks import Network
from tarflow.nn.transformer import Condition, Prefix


@dataclass(frozen=True, kw_only=True)
class Prediction(Predict):
    """A transform's prediction, with all that stays the same between the steps of decoding.

    Attributes:
        network: Predicts.
        cache: Keys and values of earlier positions, those of the prefix too; or None.
        condition: What the network adds.
        temperature: Divisor of the attention logits of each example.
        scale: How the network's output becomes a map.
        dtype: That of the maps.
        prefix: Vectors before the first position.
        places: Where in the network's tables each position stands, those of the prefix first.
        mask: Which positions are there; the others' maps change nothing.
    """

    network: Network
    cache: KVCache | None
    condition: Condition
    temperature: PerExample | None
    scale: Scale
    dtype: torch.dtype
    prefix: Prefix | None = None
    places: Int[Tensor, "batch length"] | None = None
    mask: Bool[Tensor, "examples extended"] | None = None

    def __call__(self, x: Vectors, start: Start | Fronts) -> Affine:
        maps = self.maps(x, start)
        if self.mask is None:
            return maps
        return maps.within(Window(start).own(self.mask[:, 1:], int(x.shape[1])))

    def maps(self, x: Vectors, start: Start | Fronts) -> Affine:
        """The same, of positions that are not there too."""
        prefix = self.prefix
        if prefix is not None and self.cache is not None:  # which holds what becomes of it
            many, prefix = prefix.shape[1], None
            start = start.behind(many) if isinstance(start, Fronts) else start + many
        return self.scale.affine(self._network(x, start, prefix))

    def fill(self, x: Vectors) -> None:
        """Write what becomes of the prefix into the cache: one pass, with the first values."""
        if self.prefix is not None:
            self._network(x, 0, self.prefix)

    def _network(self, x: Vectors, start: Start | Fronts, prefix: Prefix | None) -> Tensor:
        """What the network says."""
        window = Window(start, self.cache, self.temperature, self.places)
        told = {} if prefix is None else {"prefix": prefix}
        return self.network(x, self.condition, window, **told).to(self.dtype)

    rows_each: ClassVar[int] = 1
    """Rows of the network that an example takes."""

    @property
    def rule(self) -> Guidance | None:
        """The guidance, if any."""
        return None

    @property
    def given(self) -> dict[str, Tensor]:
        """Its tensors but those of network and cache, by the names of their fields."""
        return {name: each for name, each in vars(self).items() if isinstance(each, Tensor)}


@dataclass(frozen=True, kw_only=True)
class GuidedPrediction(Prediction):
    """Conditional and null prediction as one batch of twice the size, combined by a rule.

    Its mask is that of one of them.
    """

    guidance: Guidance
    weights: Float[Tensor, "extended 1"]

    rows_each: ClassVar[int] = 2

    def maps(self, x: Vectors, start: Start | Fronts) -> Affine:
        if isinstance(start, Fronts):
            twice, weight = start.twice(), self.weights[start.positions + 1]
        else:
            twice, weight = start, self.weights.narrow(0, start + 1, x.shape[1])
        both = super().maps(torch.cat([x, x]), twice)
        halves = zip(*(field.chunk(2) for field in vars(both).values()), strict=True)
        conditional, null = (type(both)(*fields) for fields in halves)
        return self.guidance(conditional, null, weight)

    def fill(self, x: Vectors) -> None:
        super().fill(torch.cat([x, x]))

    @property
    def rule(self) -> Guidance | None:
        return self.guidance
