"""A named flow: large patches nearest the data, small ones nearest the noise."""

from dataclasses import dataclass

from tarflow import (
    Alternating,
    Codec,
    Conditioner,
    ExpScale,
    Layer,
    Noise,
    Ordering,
    Part,
    PreNorm,
    Scale,
    TarFlow,
)


@dataclass(frozen=True)
class CoarseToFineDescription(Part):
    """What a `CoarseToFine` is made from."""

    image_size: tuple[int, int]
    num_channels: int
    num_classes: int
    model_dim: int
    scale: Scale
    ordering: Ordering
    layer: Layer
    conditioners: tuple[Conditioner, ...]
    codec: Codec | None
    noise: Noise | None


class CoarseToFine(TarFlow):
    """Two transforms of patches of 4, then one of patches of 2, which is deeper."""

    def __init__(
        self,
        image_size: tuple[int, int],
        num_channels: int,
        num_classes: int = 0,
        model_dim: int = 16,
        scale: Scale = ExpScale(),
        ordering: Ordering = Alternating(),
        layer: Layer = PreNorm(),
        conditioners: tuple[Conditioner, ...] = (),
        codec: Codec | None = None,
        noise: Noise | None = None,
    ):
        sizes = {"patch_size": (4, 4, 2), "num_layers": (1, 1, 2), "head_dim": 8}
        own = {"num_classes": num_classes, "scale": scale, "ordering": ordering, "layer": layer}
        known = {"conditioners": tuple(conditioners), "codec": codec, "noise": noise}
        super().__init__(
            image_size,
            num_channels=num_channels,
            num_transforms=3,
            model_dim=(model_dim, model_dim, 2 * model_dim),
            **sizes,
            **own,
            **known,
        )
        self.description = CoarseToFineDescription(
            image_size, num_channels, model_dim=model_dim, **own, **known
        )
