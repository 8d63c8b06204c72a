"""The settings that flows of the study of densities are tried with: all of them, in one place."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tarflow.flows.spline import SplineScale
from tarflow.flows.standardization import Whitening

TRIALS = 0.5
"""Share of the time in which settings are tried, all as long; the rest is for the best of them."""


@dataclass(frozen=True)
class FlowSetting:
    """How a flow is made and fitted.

    Attributes:
        options: Arguments of the flow.
        optimizer: Its optimizer.
        lr: Peak learning rate.
        weight_decay: Decay of matrices.
        noise: Deviation of normal noise on training rows, which keeps flows from learning few
            rows by heart; validation and test rows have none. Where the flow whitens rows, it is
            noise on what is whitened.
        batch_size: Number of rows in a step.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "muon"
    lr: float = 5e-3
    weight_decay: float = 1e-4
    noise: float = 0.0
    batch_size: int = 256

    @property
    def told(self) -> dict[str, Any]:
        """All of it, as JSON gives it back."""
        return {**asdict(self), "options": {n: _plain(v) for n, v in self.options.items()}}


def _plain(value: Any) -> Any:
    """An argument as JSON gives it back, or in words."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, int | float | str) else repr(value)


NOISES = (0.03, 0.1, 0.3)
"""Of tables; points in the plane are so many that they need none."""


def _tried(small: dict[str, Any], large: dict[str, Any], **told: Any) -> tuple[FlowSetting, ...]:
    """A small flow by AdamW and a large one by Muon, each with every noise."""
    return tuple(
        FlowSetting(options, optimizer, noise=noise, **told)
        for options, optimizer in ((small, "adamw"), (large, "muon"))
        for noise in NOISES
    )


def _masked(transforms: int, width: int, **options: Any) -> dict[str, Any]:
    """Options of a flow of zuko with networks of two hidden layers."""
    return {"transforms": transforms, "hidden_features": (width, width), **options}


def _transformers(num_transforms: int, num_layers: int, width: int, **options: Any) -> dict:
    """Options of a `VectorFlow`."""
    sizes = {"num_transforms": num_transforms, "num_layers": num_layers, "model_dim": width}
    return {**sizes, "head_dim": 16, "scale": SplineScale(8), **options}


PLANE: dict[str, tuple[FlowSetting, ...]] = {
    "masked_autoregressive": (
        FlowSetting(_masked(5, 64), lr=1e-2),
        FlowSetting(_masked(10, 128), lr=1e-2),
    ),
    "neural_spline": (
        FlowSetting(_masked(3, 64, bins=8), lr=1e-2),
        FlowSetting(_masked(5, 128, bins=16), lr=1e-2),
    ),
    "tarflow": (
        FlowSetting(_transformers(1, 1, 64, scale=SplineScale(16)), lr=1e-2, batch_size=512),
        FlowSetting(_transformers(2, 1, 64, scale=SplineScale(16)), batch_size=512),
    ),
}
"""Of points in the plane, by the name of the method."""

TABLE: dict[str, tuple[FlowSetting, ...]] = {
    "masked_autoregressive": _tried(_masked(3, 64), _masked(5, 128)),
    "neural_spline": _tried(_masked(2, 64, bins=8), _masked(3, 128, bins=8)),
    "tarflow": tuple(
        FlowSetting(_transformers(2, 1, 32, dropout=0.1, **told), "muon", lr, 1e-4, noise, 64)
        for told, lr in (({}, 1e-2), ({"normalization": Whitening()}, 5e-3))
        for noise in NOISES
    ),
}
"""Of tables."""
