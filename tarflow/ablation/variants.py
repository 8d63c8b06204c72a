"""What is varied: the default setting, and others that differ from it in one thing each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tarflow.ablation.baselines import (
    Baseline,
    gaussian,
    masked_autoregressive,
    neural_spline,
    real_nvp,
)
from tarflow.data import ImageData
from tarflow.flows.affine import ExpScale, Scale, UnitScale
from tarflow.flows.codec import UniformDequantization
from tarflow.flows.noise import GaussianNoise, NoNoise
from tarflow.flows.ordering import Alternating, Raster
from tarflow.flows.tar_flow import TarFlow

NUM_LAYERS = 8
"""Transformer layers of a flow, whatever the number of transforms that share them."""
WIDTH = 64
TOKENS = 4
"""Patches along a side: both data sets become sequences of 16."""

Model = TarFlow | Baseline
"""A density to fit: a flow, or another package's."""


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
        batch_size: Number of images in a step.
        baseline: Makes a density of another package instead.
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
    baseline: Callable[[ImageData], Baseline] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All of it as JSON gives it back; finished runs are known by it."""
        given = {name: vars(self)[name] for name in vars(self) if name not in ("name", "baseline")}
        return {**given, "scale": repr(self.scale)}

    def make(self, data: ImageData) -> Model:
        """A new density for a data set."""
        return self.flow(data) if self.baseline is None else self.baseline(data)

    def flow(self, data: ImageData) -> TarFlow:
        """A new flow for a data set."""
        channels, height, width = data.image_shape
        dequantized = self.noise_std is None
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
            codec=UniformDequantization(**vars(data.codec)) if dequantized else data.codec,
            noise=NoNoise() if self.noise_std is None else GaussianNoise(self.noise_std),
        )


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
        *(
            replace(_BASELINE, name=make.__name__, baseline=make)
            for make in (gaussian, real_nvp, masked_autoregressive, neural_spline)
        ),
    )
}
"""By name; `default` is the one that the others differ from."""
