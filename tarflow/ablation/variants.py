"""What is varied: the default setting, and others that differ from it in one thing each."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tarflow.ablation.baselines import BASELINES, Baseline
from tarflow.data import ImageData
from tarflow.flows.affine import ExpScale, Scale, SoftClipScale, SoftplusScale, UnitScale
from tarflow.flows.codec import UniformDequantization
from tarflow.flows.first_position import StartToken
from tarflow.flows.noise import GaussianNoise, NoNoise
from tarflow.flows.noise_levels import UniformLevels
from tarflow.flows.ordering import Alternating, Raster
from tarflow.flows.tar_flow import TarFlow
from tarflow.nn.feed_forward import SwiGLU
from tarflow.nn.gates import SigmoidGate
from tarflow.nn.layers import AdaptiveNorm, PreNorm
from tarflow.nn.norms import RootMeanSquare
from tarflow.nn.positions import RotaryGrid, RotaryPositions

NUM_LAYERS = 8
"""Transformer layers of a flow, whatever the number of transforms that share them."""
WIDTH = 64
TOKENS = 4
"""Patches along a side: both data sets become sequences of 16."""
LOWEST = 0.02
"""The lowest noise level of flows of many."""

Model = TarFlow | Baseline
"""A density to fit: a flow, or another package's."""


@dataclass(frozen=True)
class Variant:
    """One way to make and fit a density."""

    name: str = "default"  # in files and tables
    num_transforms: int = 4
    scale: Scale = field(default_factory=ExpScale)
    alternating: bool = True  # whether the order is reversed from one transform to the next
    noise_std: float | None = 0.1  # of Gaussian noise; None for uniform dequantization
    labelled: bool = True
    optimizer: str = "muon"  # or adamw
    lr: float = 1e-2  # at its peak
    max_grad_norm: float = 1.0
    guided: bool = False  # whether samples are drawn with guidance too
    batch_size: int = 64
    baseline: Callable[[ImageData], Baseline] | None = None  # makes another package's instead
    changes: Mapping[str, Any] = field(default_factory=dict)  # arguments of the flow, by name

    @property
    def settings(self) -> dict[str, Any]:
        """All of it as JSON gives it back; finished runs are known by it."""
        apart = ("name", "baseline", "changes")
        given = {name: value for name, value in vars(self).items() if name not in apart}
        if math.isinf(self.max_grad_norm):
            given["max_grad_norm"] = None  # what JSON keeps of it
        changes = {name: repr(value) for name, value in self.changes.items()}
        return {**given, "scale": repr(self.scale), **({"changes": changes} if changes else {})}

    def make(self, data: ImageData) -> Model:
        """A new density for a data set."""
        return self.flow(data) if self.baseline is None else self.baseline(data)

    def flow(self, data: ImageData) -> TarFlow:
        """A new flow for a data set."""
        channels, height, width = data.image_shape
        dequantized = self.noise_std is None
        arguments: dict[str, Any] = {
            "num_transforms": self.num_transforms,
            "num_layers": NUM_LAYERS // self.num_transforms,
            "model_dim": WIDTH,
            "head_dim": WIDTH // 2,
            "dropout": 0.1,
            "num_classes": data.num_classes if self.labelled else 0,
            "scale": self.scale,
            "ordering": Alternating() if self.alternating else Raster(),
            "codec": UniformDequantization(**vars(data.codec)) if dequantized else data.codec,
            "noise": NoNoise() if self.noise_std is None else GaussianNoise(self.noise_std),
        }
        arguments.update(self.changes)
        return TarFlow((height, width), height // TOKENS, channels, **arguments)


DEFAULT = Variant(guided=True)
_PLAIN = replace(DEFAULT, guided=False)
_UNLABELLED = replace(_PLAIN, noise_std=None, labelled=False)
_BASELINE = replace(_UNLABELLED, optimizer="adamw", lr=3e-3, batch_size=128)

REFERENCE = "reference"
"""The default, run again beside what later papers changed, on the same machine."""

CHANGES: dict[str, dict[str, Any]] = {
    "levels_0.15": {"noise": UniformLevels(LOWEST, 0.15)},
    "levels_0.3": {"noise": UniformLevels(LOWEST, 0.3)},
    "deep_near_noise": {"num_layers": (1, 1, 1, 5)},
    "deep_near_data": {"num_layers": (5, 1, 1, 1)},
    "rotary": {"positions": RotaryPositions()},
    "rotary_grid": {"positions": RotaryGrid()},
    "rms_norm": {"layer": PreNorm(norm=RootMeanSquare())},
    "query_key_norm": {"layer": PreNorm(query_key_norm=RootMeanSquare())},
    "adaptive_norm": {"layer": AdaptiveNorm()},
    "swiglu": {"layer": PreNorm(mlp=SwiGLU())},
    "gated_attention": {"layer": PreNorm(gate=SigmoidGate())},
    "start_token": {"first": StartToken()},
}
"""Variants that differ from the default in an argument of the flow, of later papers."""

VARIANTS = {
    variant.name: variant
    for variant in (
        DEFAULT,
        replace(_PLAIN, name="volume_preserving", scale=UnitScale()),
        *(replace(_PLAIN, name=f"transforms_{n}", num_transforms=n) for n in (1, 2, 8)),
        replace(_PLAIN, name="fixed_order", alternating=False),
        *(replace(_PLAIN, name=f"noise_{std:g}", noise_std=std) for std in (0.0, 0.02, 0.05, 0.2)),
        replace(_PLAIN, name="uniform", noise_std=None),
        replace(_PLAIN, name="unclipped", max_grad_norm=float("inf")),
        replace(_PLAIN, name="adamw", optimizer="adamw", lr=3e-3),
        replace(_PLAIN, name=REFERENCE),
        replace(_PLAIN, name="softplus", scale=SoftplusScale()),
        replace(_PLAIN, name="soft_clip", scale=SoftClipScale()),
        *(replace(_PLAIN, name=name, changes=given) for name, given in CHANGES.items()),
        replace(_UNLABELLED, name="unlabelled"),
        *(replace(_BASELINE, name=make.__name__, baseline=make) for make in BASELINES),
    )
}
"""By name; `default` is the one that the others differ from."""
