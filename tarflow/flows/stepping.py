"""Predictions prepared for decoding: network, guidance and the next value run as one."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tarflow.flows.affine import (
    Affine,
    ExpScale,
    SoftClipScale,
    SoftplusScale,
    UnitScale,
    Vectors,
)
from tarflow.flows.decoding import Predict
from tarflow.flows.guidance import (
    ConstantSchedule,
    GaussianGuidance,
    LinearGuidance,
    LinearScaleGuidance,
)
from tarflow.flows.prediction import Prediction
from tarflow.flows.spline import SplineScale
from tarflow.nn.attention import Fronts, KVCache
from tarflow.nn.compiled import CompiledNetwork, Room
from tarflow.nn.packing import PackedTransformer
from tarflow.nn.recording import Run

MAX_RECORDED_ROWS = 128
"""Rows above which steps are not recorded: there products take the time, not what is around."""

KNOWN = {
    *(ExpScale, SoftClipScale, SoftplusScale, UnitScale, SplineScale),
    *(LinearGuidance, LinearScaleGuidance, GaussianGuidance, type(None)),
}
"""Scales and rules that choose nothing by the content of tensors, so that they can be recorded."""

UNREAD: Any = {"temperature": 1.0, "schedule": ConstantSchedule(), "depths": None}
"""Fields of rules, besides the weight, that come as tensors or have done what they do."""


class RecordedPrediction(Predict):
    """A prediction whose single steps, of a packed transformer, run without Python in between.

    Transforms of one kind share what is recorded, which takes a tenth of a second.
    """

    def __init__(self, prediction: Prediction, network: PackedTransformer, cache: KVCache):
        self.prediction, self.network, self.cache = prediction, network, cache
        self.kind: type[Affine] | None = None
        self.run: Run | None = None
        self.inputs: tuple[Tensor, ...] = ()

    def __call__(self, x: Vectors, start: int | Fronts) -> Affine:
        if isinstance(start, Fronts) or x.shape[1] > 1:
            return self.prediction(x, start)
        return self.step(x, start, x)[1]

    def step(self, x: Vectors, position: int, z: Vectors) -> tuple[Vectors, Affine]:
        """As the prediction; the first call makes room in the cache and tells the kind of map."""
        rows = len(x) * self.prediction.rows_each
        if self.kind is None or rows > MAX_RECORDED_ROWS:
            value, affine = self.prediction.step(x, position, z)
            self.kind = type(affine)
            return value, affine
        at = torch.tensor(position)
        if not self.inputs:
            self._record(x, at, z)
        if self.run is None:
            return self.prediction.step(x, position, z)
        value, *maps = self.run(x, at, z, *self.inputs)
        return value, self.kind(*maps)

    def _record(self, x: Vectors, position: Tensor, z: Vectors) -> None:
        """Find what was recorded, or record it."""
        prediction = self.prediction
        stores = [each for each in (*self.cache.keys, *self.cache.values) if each is not None]
        self.inputs = *prediction.given.values(), *stores

        def run(x: Tensor, position: Tensor, z: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            cache, rest = KVCache(len(self.cache.keys), self.cache.length), iter(inputs)
            given = {name: next(rest) for name in prediction.given}
            for stored in (cache.keys, cache.values):
                stored[:] = [next(rest) for _ in stored]
            affine = replace(prediction, cache=cache, **given)(x, position)
            return affine.to_data(z), *vars(affine).values()

        name = kind_of(prediction), x.shape, self.cache.length
        self.run = self.network.recorder.recorded(name, run, (x, position, z, *self.inputs))


class GraphedPrediction(Predict):
    """A prediction whose steps, and windows at fronts, run as CUDA graphs.

    A graph reads a bucket of cached positions, and there is one for each bucket.

    Args:
        prediction: Predicts, by a `CompiledNetwork`.
        network: That network.
        room: Where its cache lies, and its graphs.
    """

    def __init__(self, prediction: Prediction, network: CompiledNetwork, room: Room):
        self.prediction, self.network, self.room = prediction, network, room
        self.kind = kind_of(prediction)

    def __call__(self, x: Vectors, start: int | Fronts) -> Affine:
        # A graph for each length of window would be made, were they not all the same in fronts.
        if isinstance(start, int) and x.shape[1] > 1:
            return self.prediction(x, start)
        return self._run(x, start, x)[1]

    def step(self, x: Vectors, position: int, z: Vectors) -> tuple[Vectors, Affine]:
        return self._run(x, position, z)

    def _run(self, x: Vectors, start: int | Fronts, z: Vectors) -> tuple[Vectors, Affine]:
        """Values given their noise, and their maps, by a graph."""
        prediction, network, count = self.prediction, self.network, x.shape[1]
        if isinstance(start, Fronts):
            position, end = start.positions[:, 0], start.seen.shape[-1]
        else:
            position, end = torch.full((1,), start, device=x.device), start + 1
        num_before = 0 if prediction.prefix is None else prediction.prefix.shape[1]
        num_keys = network.bucket_of(end + num_before) - num_before
        names = [*prediction.given]

        def run(x: Tensor, position: Tensor, z: Tensor, *given: Tensor) -> tuple[Tensor, Affine]:
            told: Any = dict(zip(names, given, strict=True))
            inner = replace(prediction, network=network.network, **told)
            affine = inner(x, Fronts.at(position, count, num_keys))
            return affine.to_data(z), affine

        name = self.kind, x.shape, len(position), num_keys
        moving, fixed = (x, position, z), tuple(prediction.given.values())
        value, affine = self.room.run(network, name, run, moving, fixed, self)
        return value.clone(), type(affine)(*(each.clone() for each in vars(affine).values()))


def kind_of(prediction: Prediction) -> Hashable:
    """Predictions of one kind, by networks of one kind, compute the same of tensors."""
    rule = prediction.rule and replace(prediction.rule, weight=1.0, **UNREAD)
    given = [(name, each.shape) for name, each in prediction.given.items()]
    return prediction.scale, rule, prediction.dtype, *given


def stepping(prediction: Prediction) -> Predict:
    """The same prediction, for decoding: prepared where that is known to do."""
    network, cache = prediction.network, prediction.cache
    if cache is None or not {type(prediction.scale), type(prediction.rule)} <= KNOWN:
        return prediction
    if isinstance(network, PackedTransformer) and network.takes_rows:
        return RecordedPrediction(prediction, network, cache)
    if isinstance(network, CompiledNetwork):
        room = network.room_of(cache)
        return prediction if room is None else GraphedPrediction(prediction, network, room)
    return prediction
