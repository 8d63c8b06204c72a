"""The settings that flows of the study of densities are tried with: all of them, in one place."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

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
            rows by heart; validation and test rows have none.
        batch_size: Number of rows in a step.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    lr: float = 2e-3
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


def _tried(*settings: FlowSetting, noises: tuple[float, ...]) -> tuple[FlowSetting, ...]:
    """Each of some settings with every noise."""
    return tuple(replace(each, noise=noise) for each in settings for noise in noises)


NOISES = (0.1, 0.25)
"""Of tables; points in the plane are so many that they need none."""


def _masked(transforms: int, width: int, **options: Any) -> dict[str, Any]:
    """Options of a flow of zuko with networks of two hidden layers."""
    return {"transforms": transforms, "hidden_features": (width, width), **options}


def _transformers(num_transforms: int, num_layers: int, width: int, **options: Any) -> dict:
    """Options of a `VectorFlow`."""
    sizes = {"num_transforms": num_transforms, "num_layers": num_layers, "model_dim": width}
    return {**sizes, "head_dim": 16, **options}


PLANE: dict[str, tuple[FlowSetting, ...]] = {
    "masked_autoregressive": (
        FlowSetting(_masked(5, 64)),
        FlowSetting(_masked(10, 128), lr=1e-3),
    ),
    "neural_spline": (
        FlowSetting(_masked(3, 64, bins=8)),
        FlowSetting(_masked(5, 128, bins=16), lr=1e-3),
    ),
    "tarflow": (
        FlowSetting(_transformers(8, 1, 32), "muon", 5e-3),
        FlowSetting(_transformers(8, 2, 64), "muon"),
    ),
}
"""Of points in the plane, by the name of the method."""

TABLE: dict[str, tuple[FlowSetting, ...]] = {
    "masked_autoregressive": _tried(
        FlowSetting(_masked(3, 64)),
        FlowSetting(_masked(5, 128), lr=1e-3),
        noises=NOISES,
    ),
    "neural_spline": _tried(
        FlowSetting(_masked(2, 64, bins=8)),
        FlowSetting(_masked(3, 128, bins=8), lr=1e-3),
        noises=NOISES,
    ),
    "tarflow": _tried(
        FlowSetting(_transformers(3, 1, 32, dropout=0.1), "muon"),
        FlowSetting(_transformers(4, 2, 64, dropout=0.1), "muon"),
        noises=NOISES,
    ),
}
"""Of tables."""
