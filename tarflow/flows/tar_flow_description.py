"""What a TarFlow is made from, checked, and the transforms that it describes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from tarflow.arguments import check_instance, check_integer, check_real, check_size, keep, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import Scale, UnitScale
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.base import DiagonalNormal, StandardNormal
from tarflow.flows.codec import Codec
from tarflow.flows.conditioning import Conditioner, LabelConditioner
from tarflow.flows.first_position import FirstPosition
from tarflow.flows.noise import Noise
from tarflow.flows.ordering import Ordering
from tarflow.flows.transforms import Patchify, Repatch, Transform, rearrangement
from tarflow.nn.transformer import CausalTransformer, Layer
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
    first: FirstPosition

    def __post_init__(self):
        keep(self, image_size=check_size("image_size", self.image_size))
        for name, least in (("num_channels", 1), ("num_transforms", 1), ("num_classes", 0)):
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        for name in ("patch_size", *SIZES):
            self._keep_each(name, partial(check_integer, least=1))
        self._keep_each("dropout", _check_dropout)
        keep(self, conditioners=tuple(self.conditioners))
        keep(self, class_names=_check_names(self.class_names, self.num_classes))
        kinds = {"scale": Scale, "ordering": Ordering, "layer": Layer, "first": FirstPosition}
        for name, kind in kinds.items():
            check_instance(name, getattr(self, name), kind, f"pass a {kind.__name__}")
        for each in self.conditioners:
            check_instance("one of conditioners,", each, Conditioner, "pass a Conditioner")

    def at(self, index: int, name: str) -> Any:
        """A number of one transform."""
        value = getattr(self, name)
        return value[index] if isinstance(value, tuple) else value

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
        length = patchify.length + self.first.num_added
        network = CausalTransformer(patch_dim, outputs, length, **numbers, layer=self.layer)
        labels = (LabelConditioner(self.num_classes),) if self.num_classes else ()
        conditioners = (*labels, *self.conditioners)
        return AutoregressiveTransform(network, self.scale, conditioners, self.first)

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
