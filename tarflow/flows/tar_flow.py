"""TarFlow: a Transformer autoregressive flow over images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

from tarflow.arguments import check_instance, check_integer, check_real, check_size, keep, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import ExpScale, Scale, UnitScale
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.base import DiagonalNormal, StandardNormal
from tarflow.flows.codec import Codec
from tarflow.flows.conditioning import Conditioner, LabelConditioner
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise
from tarflow.flows.ordering import Alternating, Ordering
from tarflow.flows.transforms import Patchify, Repatch, Transform, rearrangement
from tarflow.nn.transformer import CausalTransformer, Layer, PreNorm
from tarflow.registry import Part

Each = int | Sequence[int]
"""One number for all transforms, or one for each, that nearest the data first."""

SIZES = ("num_layers", "model_dim", "head_dim", "expansion")


@dataclass(frozen=True)
class TarFlowDescription(Part):
    """What a `TarFlow` is made from; see there. Numbers are checked and plain."""

    image_size: int | tuple[int, int]
    patch_size: Each
    num_channels: int
    num_transforms: int
    num_layers: Each
    model_dim: Each
    head_dim: Each
    expansion: Each
    dropout: float | Sequence[float]
    num_classes: int
    scale: Scale
    ordering: Ordering
    layer: Layer
    conditioners: Sequence[Conditioner]
    codec: Codec | None
    noise: Noise | None
    class_names: Sequence[str]

    def __post_init__(self):
        keep(self, image_size=check_size("image_size", self.image_size))
        for name, least in (("num_channels", 1), ("num_transforms", 1), ("num_classes", 0)):
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        for name in ("patch_size", *SIZES):
            self._keep_each(name, partial(check_integer, least=1))
        self._keep_each("dropout", _check_dropout)
        keep(self, conditioners=tuple(self.conditioners))
        keep(self, class_names=_check_names(self.class_names, self.num_classes))
        for name, kind in (("scale", Scale), ("ordering", Ordering), ("layer", Layer)):
            check_instance(name, getattr(self, name), kind, f"pass a {kind.__name__}")
        for each in self.conditioners:
            check_instance("one of conditioners,", each, Conditioner, "pass a Conditioner")

    def at(self, index: int, name: str) -> Any:
        """A number of one transform."""
        value = getattr(self, name)
        return value[index] if isinstance(value, tuple) else value

    @property
    def all_conditioners(self) -> tuple[Conditioner, ...]:
        """What reads labels, noise levels, and what else there is."""
        labels = (LabelConditioner(self.num_classes),) if self.num_classes else ()
        levels = self.noise.conditioners if self.noise else ()
        return tuple(dict.fromkeys((*labels, *levels, *self.conditioners)))

    def patchify(self, index: int) -> Patchify:
        """Make what cuts an image into the patches of one transform."""
        return Patchify(cast(tuple[int, int], self.image_size), self.at(index, "patch_size"))

    def transforms(self) -> Iterator[Transform]:
        """Make the transforms, that nearest the data first.

        Where the patch size changes, the sequence becomes an image again and is cut anew.
        """
        before = None
        for index in range(self.num_transforms):
            patchify = self.patchify(index)
            if before is None:
                yield patchify
            elif patchify.patch_size != before.patch_size:
                yield Repatch(before, patchify)
            order = rearrangement(self.ordering(index, patchify.length))
            if order is not None:
                yield order
            yield self._autoregressive(index, patchify)
            if order is not None:
                yield order.inverted()
            before = patchify

    def base(self) -> StandardNormal:
        """Make the distribution of the noise."""
        patchify = self.patchify(self.num_transforms - 1)
        kind = DiagonalNormal if isinstance(self.scale, UnitScale) else StandardNormal
        return kind(patchify.length, self.num_channels * patchify.patch_size**2)

    def _autoregressive(self, index: int, patchify: Patchify) -> AutoregressiveTransform:
        """Make one of the autoregressive transforms, with a transformer of its own."""
        patch_dim = self.num_channels * patchify.patch_size**2
        numbers = {name: self.at(index, name) for name in (*SIZES, "dropout")}
        outputs = self.scale.num_outputs * patch_dim
        network = CausalTransformer(
            patch_dim, outputs, patchify.length, **numbers, layer=self.layer
        )
        return AutoregressiveTransform(network, self.scale, self.all_conditioners)

    def _keep_each(self, name: str, check: Callable[[str, Any], Any]) -> None:
        """Check one value, or one for each transform."""
        value = getattr(self, name)
        if not isinstance(value, tuple | list):
            return keep(self, **{name: check(name, value)})
        if len(value) != self.num_transforms:
            raise ConfigurationError(
                f"{name} {shown(value)}: give one value, or one for each of the"
                f" {self.num_transforms} transforms"
            )
        return keep(self, **{name: tuple(check(f"one of {name},", each) for each in value)})


class TarFlow(Flow):
    """A Transformer autoregressive flow over images (arXiv 2412.06329).

    Numbers that say so may be a sequence of one for each transform, that nearest the data first:
    patches may differ in size, networks in width and depth.

    Args:
        image_size: Height and width of the images, or one number for both.
        patch_size: Side of a patch; one or each.
        num_channels: Number of channels of the images.
        num_transforms: Number of autoregressive transforms.
        num_layers: Number of transformer layers; one or each.
        model_dim: Width of the transformers; one or each.
        head_dim: Width of one attention head; it divides `model_dim`; one or each.
        expansion: Width of the MLP's hidden layer, in units of `model_dim`; one or each.
        dropout: Probability of dropping attention weights and MLP outputs; one or each.
        num_classes: Number of classes; 0 for a flow without labels.
        scale: How scales are parameterized; `UnitScale()` is the volume-preserving variant, whose
            base has a learned variance.
        ordering: In which order each transform reads the patches.
        layer: The kind of layer of the transformers.
        conditioners: Read parts of the context besides the label.
        codec: How stored images became the data whose density this is, kept with the model.
        noise: The noise that was added to the data, kept with the model: what `denoise` removes.
            With `NoiseLevels`, all transforms read the noise level.
        class_names: A name for each class, or none; kept with the model.

    Example:
        >>> flow = TarFlow(image_size=8, patch_size=2, num_channels=1, model_dim=64, num_layers=1)
        >>> x = flow.sample(5)
        >>> x.shape, flow.log_prob(x).shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5]))

    Raises:
        ValueError: The patches do not tile the image, or heads do not divide the width.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: Each,
        num_channels: int = 3,
        num_transforms: int = 8,
        num_layers: Each = 8,
        model_dim: Each = 768,
        head_dim: Each = 64,
        expansion: Each = 4,
        dropout: float | Sequence[float] = 0.0,
        num_classes: int = 0,
        scale: Scale = ExpScale(),
        ordering: Ordering = Alternating(),
        layer: Layer = PreNorm(),
        conditioners: Sequence[Conditioner] = (),
        codec: Codec | None = None,
        noise: Noise | None = None,
        class_names: Sequence[str] = (),
    ):
        given = locals()
        names = [field.name for field in fields(TarFlowDescription)]
        description = TarFlowDescription(**{name: given[name] for name in names})
        super().__init__(description.transforms(), description.base(), codec, noise, description)
        self.image_shape = (description.num_channels, *description.image_size)  # pyright: ignore


def _check_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Refuse what is not a name of its own for each class."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"class_names {shown(names)}: give a list of names")
    if len(names) not in (0, num_classes) or len(set(names)) < len(names):
        raise ConfigurationError(
            f"class_names {shown(names)}: give one for each of the {num_classes} classes, all of"
            " them different, or none"
        )
    return tuple(names)


def _check_dropout(name: str, value: Any) -> float:
    """Refuse what is not a probability below one."""
    number = float(check_real(name, value))
    if not 0 <= number < 1:
        raise ConfigurationError(f"{name} {number} is out of range: 0 <= dropout < 1")
    return number
