"""What decoding asks a transform for: the maps of the next positions, guided or not."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tarflow.flows.affine import (
    Affine,
    ExpScale,
    Scale,
    SoftClipScale,
    SoftplusScale,
    UnitScale,
    Vectors,
)
from tarflow.flows.decoding import Predict
from tarflow.flows.guidance import (
    ConstantSchedule,
    GaussianGuidance,
    Guidance,
    LinearGuidance,
    LinearScaleGuidance,
)
from tarflow.flows.shapes import PerExample
from tarflow.nn.attention import Fronts, KVCache, Start, Window
from tarflow.nn.networks import Network
from tarflow.nn.packing import PackedTransformer
from tarflow.nn.recording import Run
from tarflow.nn.transformer import Condition, Prefix

MAX_RECORDED_ROWS = 128
"""Rows above which steps are not recorded: there products take the time, not what is around."""

KNOWN = {
    *(ExpScale, SoftClipScale, SoftplusScale, UnitScale),
    *(LinearGuidance, LinearScaleGuidance, GaussianGuidance, type(None)),
}
"""Scales and rules that choose nothing by the content of tensors, so that they can be recorded."""

UNREAD: Any = {"temperature": 1.0, "schedule": ConstantSchedule(), "depths": None}
"""Fields of rules, besides the weight, that come as tensors or have done what they do."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
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
        """Predict the maps of positions `start + 1 ...` from the values before them."""
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
        log_scale, null_log_scale = both.log_scale.chunk(2)
        shift, null_shift = both.shift.chunk(2)
        return self.guidance(Affine(log_scale, shift), Affine(null_log_scale, null_shift), weight)

    def fill(self, x: Vectors) -> None:
        super().fill(torch.cat([x, x]))

    @property
    def rule(self) -> Guidance | None:
        return self.guidance


class RecordedPrediction:
    """A prediction whose single steps, of a packed transformer, run without Python in between.

    Transforms of one kind share what is recorded, which takes a tenth of a second.
    """

    def __init__(self, prediction: Prediction, network: PackedTransformer, cache: KVCache):
        self.prediction, self.network, self.cache = prediction, network, cache
        self.kind: type[Affine] | None = None
        self.run: Run | None = None
        self.inputs: tuple[Tensor, ...] = ()

    def __call__(self, x: Vectors, start: int | Fronts) -> Affine:
        """As the prediction; the first call makes room in the cache and tells the kind of map."""
        if self.kind is None:
            affine = self.prediction(x, start)
            self.kind = type(affine)
            return affine
        rows = len(x) * self.prediction.rows_each
        if not isinstance(start, int) or x.shape[1] > 1 or rows > MAX_RECORDED_ROWS:
            return self.prediction(x, start)
        position = torch.tensor(start)
        if not self.inputs:
            self._record(x, position)
        if self.run is None:
            return self.prediction(x, start)
        return self.kind(*self.run(x, position, *self.inputs))

    def _record(self, x: Vectors, position: Tensor) -> None:
        """Find what was recorded, or record it."""
        prediction = self.prediction
        stores = [each for each in (*self.cache.keys, *self.cache.values) if each is not None]
        self.inputs = *prediction.given.values(), *stores

        def run(x: Tensor, position: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            cache, rest = KVCache(len(self.cache.keys), self.cache.length), iter(inputs)
            given = {name: next(rest) for name in prediction.given}
            for stored in (cache.keys, cache.values):
                stored[:] = [next(rest) for _ in stored]
            changed = replace(prediction, cache=cache, **given)
            return tuple(vars(changed(x, position)).values())

        rule = prediction.rule and replace(prediction.rule, weight=1.0, **UNREAD)
        given = [(name, each.shape[1:]) for name, each in prediction.given.items()]
        parts = prediction.scale, rule, prediction.dtype, *given
        name = *parts, x.shape, self.cache.length
        self.run = self.network.recorder.recorded(name, run, (x, position, *self.inputs))


def stepping(prediction: Prediction) -> Predict:
    """The same prediction, for decoding: with its steps recorded where that is known to do."""
    network, cache = prediction.network, prediction.cache
    known = {type(prediction.scale), type(prediction.rule)} <= KNOWN
    if isinstance(network, PackedTransformer) and network.takes_rows and known and cache:
        return RecordedPrediction(prediction, network, cache)
    return prediction
