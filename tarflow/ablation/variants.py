"""What is varied: the default setting, and others that differ from it in one thing each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tarflow.ablation import baselines
from tarflow.data import ImageData
from tarflow.flows.affine import ExpScale, Scale, UnitScale
from tarflow.flows.codec import Codec, UniformDequantization
from tarflow.flows.noise import GaussianNoise, Noise, NoNoise
from tarflow.flows.ordering import Alternating, Raster
from tarflow.flows.tar_flow import TarFlow

NUM_LAYERS = 8
"""Transformer layers of a flow, whatever the number of transforms that share them."""
WIDTH = 64
TOKENS = 4
"""Patches along a side: both data sets become sequences of 16."""


@dataclass(frozen=True)
class Encoding:
    """Makes of stored images what densities are fitted to.

    Attributes:
        codec: What the stored numbers mean.
        noise: What is added.
    """

    codec: Codec
    noise: Noise

    def __call__(self, stored: Tensor, source: torch.Generator | None = None) -> Tensor:
        """Noisy images; draws come from torch's global generator unless there is a source."""
        return self.noise(self.codec.encode(stored, source), source)


@dataclass(frozen=True)
class Variant:
    """One way to make and fit a density.

    Attributes:
        name: In files and tables.
        num_transforms: Number of autoregressive transforms.
        scale: How they parameterize scales.
        alternating: Whether the order of the sequence is reversed from one to the next.
        noise_std: Standard deviation of Gaussian noise; None for uniform dequantization.
        labelled: Whether the density knows classes.
        optimizer: `muon` or `adamw`.
        lr: Peak learning rate.
        max_grad_norm: Largest norm of a gradient.
        guided: Whether samples are drawn with guidance too.
    """

    name: str = "default"
    num_transforms: int = 4
    scale: Scale = field(default_factory=ExpScale)
    alternating: bool = True
    noise_std: float | None = 0.1
    labelled: bool = True
    optimizer: str = "muon"
    lr: float = 1e-2
    max_grad_norm: float = 1.0
    guided: bool = False
    batch_size: int = 64
    make: Callable[["Variant", ImageData], nn.Module] = field(default=lambda v, d: v.flow(d))

    @property
    def settings(self) -> dict[str, Any]:
        """All of it in words."""
        names = ("num_transforms", "scale", "alternating", "noise_std", "labelled", "optimizer")
        names += ("lr", "max_grad_norm", "guided", "batch_size")
        return {name: _plain(getattr(self, name)) for name in names}

    def encoding(self, data: ImageData) -> Encoding:
        """What is done to the data."""
        if self.noise_std is None:
            return Encoding(UniformDequantization(**vars(data.codec)), NoNoise())
        return Encoding(data.codec, GaussianNoise(self.noise_std))

    def flow(self, data: ImageData) -> TarFlow:
        """A new flow for a data set."""
        channels, height, width = data.image_shape
        return TarFlow(
            (height, width),
            height // TOKENS,
            channels,
            num_transforms=self.num_transforms,
            num_layers=NUM_LAYERS // self.num_transforms,
            model_dim=WIDTH,
            head_dim=WIDTH // 2,
            dropout=0.1,
            num_classes=data.num_classes if self.labelled else 0,
            scale=self.scale,
            ordering=Alternating() if self.alternating else Raster(),
            **vars(self.encoding(data)),
        )


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


DEFAULT = Variant(guided=True)

_PLAIN = replace(DEFAULT, guided=False)

_UNLABELLED = replace(_PLAIN, noise_std=None, labelled=False)

_BASELINE = replace(_UNLABELLED, optimizer="adamw", lr=3e-3, batch_size=128)

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
        replace(_UNLABELLED, name="unlabelled"),
        replace(_BASELINE, name="gaussian", make=baselines.gaussian),
        replace(_BASELINE, name="real_nvp", make=baselines.real_nvp),
        replace(_BASELINE, name="masked_autoregressive", make=baselines.masked_autoregressive),
        replace(_BASELINE, name="neural_spline", make=baselines.neural_spline),
    )
}
"""By name; `default` is the one that the others differ from."""
