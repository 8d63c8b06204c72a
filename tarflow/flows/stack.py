"""A stack of autoregressive transforms of sequences: what it is made from, checked."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from tarflow.arguments import (
    check_instance,
    check_integer,
    check_real,
    is_truth,
    keep,
    shown,
)
from tarflow.errors import ConfigurationError
from tarflow.flows.affine import ExpScale, Scale, UnitScale
from tarflow.flows.autoregressive import AutoregressiveTransform
from tarflow.flows.base import DiagonalNormal, StandardNormal
from tarflow.flows.checkpoint import UNWRITTEN
from tarflow.flows.conditioning import Conditioner, LabelConditioner
from tarflow.flows.first_position import FirstPosition, StartToken
from tarflow.flows.noise import Noise
from tarflow.flows.ordering import Alternating, Ordering
from tarflow.flows.reordering import rearrangement
from tarflow.flows.transforms import Transform
from tarflow.nn.layers import Layer, PreNorm
from tarflow.nn.norms import Norm
from tarflow.nn.positions import Coordinates, LearnedPositions, Positions
from tarflow.nn.transformer import CausalTransformer
from tarflow.registry import Part

Each = int | Sequence[int]
"""One number for all transforms, or one for each, that nearest the data first."""

EachLayer = Sequence[Sequence[int]]
"""For each transform one number for each of its layers."""

WIDTHS = ("num_heads", "hidden_dims")
"""Fields of that kind."""

SIZES = ("num_layers", "model_dim", "head_dim", "expansion")
"""Integers that may be one for each transform."""

PARTS = {
    "scale": Scale,
    "ordering": Ordering,
    "layer": Layer,
    "positions": Positions,
    "first": FirstPosition,
}
OPTIONAL = {
    "output_norm": (Norm, "pass a Norm, or None"),
    "noise": (Noise, "pass GaussianNoise(0.1) or NoNoise(); UniformDequantization is a codec"),
}


@dataclass(frozen=True, kw_only=True)
class Stack(Part, ABC):
    """What a flow of sequences is made from; see `TarFlow`. Numbers are checked and plain."""

    each: ClassVar[tuple[str, ...]] = SIZES
    """Those that a description has."""

    num_transforms: int = 4
    num_layers: Each = 2
    model_dim: Each = 128
    head_dim: Each = 32
    expansion: Each = 4
    dropout: float | Sequence[float] = 0.0
    num_classes: int = 0
    scale: Scale = ExpScale()
    ordering: Ordering = Alternating()
    layer: Layer = PreNorm()
    positions: Positions = LearnedPositions()
    output_norm: Norm | None = None
    conditioners: Sequence[Conditioner] = ()
    noise: Noise | None = None
    class_names: Sequence[str] = ()
    conditioned: bool | Sequence[bool] = True
    networks: Sequence[int] | None = None
    first: FirstPosition = StartToken()
    num_heads: EachLayer | None = field(default=None, metadata=UNWRITTEN)
    hidden_dims: EachLayer | None = field(default=None, metadata=UNWRITTEN)

    def __post_init__(self):
        for name, least in (("num_transforms", 1), ("num_classes", 0)):
            keep(self, **{name: check_integer(name, getattr(self, name), least)})
        for name in self.each:
            self._keep_each(name, partial(check_integer, least=1))
        self._keep_each("dropout", check_dropout)
        self._keep_each("conditioned", _check_truth)
        keep(self, conditioners=tuple(self.conditioners))
        keep(self, class_names=check_class_names(self.class_names, self.num_classes))
        for name, kind in PARTS.items():
            check_instance(name, getattr(self, name), kind, f"pass a {kind.__name__}")
        for name, (kind, hint) in OPTIONAL.items():
            if getattr(self, name) is not None:
                check_instance(name, getattr(self, name), kind, hint)
        for each in self.conditioners:
            check_instance("one of conditioners,", each, Conditioner, "pass a Conditioner")
        self._check_read()
        for name in WIDTHS:
            self._keep_widths(name)
        if self.networks is not None:
            self._keep_networks(self.networks)

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

    @abstractmethod
    def shape(self, index: int) -> tuple[int, int]:
        """Length of the sequences that one transform reads, and size of their vectors."""

    @abstractmethod
    def coordinates(self, index: int, sites: Sequence[int]) -> Coordinates:
        """Where in a grid some positions of these sequences lie."""

    @abstractmethod
    def before(self, index: int) -> Iterator[Transform]:
        """Make what leads to these sequences: from the data, or those of the transform before."""

    def after(self) -> Iterator[Transform]:
        """Make what comes after all of them."""
        yield from ()

    def transforms(self) -> Iterator[Transform]:
        """Make the transforms, that nearest the data first."""
        made: dict[int, AutoregressiveTransform] = {}
        for index in range(self.num_transforms):
            yield from self.before(index)
            sites = self.ordering(index, self.shape(index)[0])
            order = rearrangement(sites)
            if order is not None:
                yield order
            owner = index if self.networks is None else self.networks[index]
            if owner not in made:
                made[owner] = self._autoregressive(index, sites)
            yield made[owner]
            if order is not None:
                yield order.inverted()
        yield from self.after()

    def base(self) -> StandardNormal:
        """Make the distribution of the noise."""
        kind = DiagonalNormal if isinstance(self.scale, UnitScale) else StandardNormal
        return kind(*self.shape(self.num_transforms - 1))

    def _autoregressive(self, index: int, sites: Sequence[int]) -> AutoregressiveTransform:
        """Make one of the autoregressive transforms, with a transformer of its own."""
        size = self.shape(index)[1]
        numbers = {name: self.at(index, name) for name in (*SIZES, "dropout", *WIDTHS)}
        parts = {name: getattr(self, name) for name in ("layer", "positions", "output_norm")}
        conditioners = self.all_conditioners
        if not self.at(index, "conditioned"):
            conditioners = tuple(each for each in conditioners if not each.dropped)
        num_before = self.first.num_added + sum(each.num_prefix for each in conditioners)
        places = F.pad(self.coordinates(index, sites), (0, 0, num_before, 0), value=-1)
        network = CausalTransformer(
            size,
            self.scale.num_outputs * size,
            len(places),
            **numbers,
            **parts,
            coordinates=places,
        )
        return AutoregressiveTransform(network, self.scale, conditioners, self.first)

    def _check_read(self) -> None:
        """Refuse conditions that no transform would read."""
        reads = self.conditioned if isinstance(self.conditioned, tuple) else (self.conditioned,)
        parts = [each.part for each in self.all_conditioners if each.dropped]
        if parts and not any(reads):
            raise ConfigurationError(
                f"conditioned {shown(self.conditioned)}: no transform would read the {parts[0]};"
                " let one be True"
            )

    def _keep_networks(self, networks: Any) -> None:
        """Check which transforms share a network: the same numbers make it, whichever it is."""
        given = networks if isinstance(networks, tuple | list) else ()
        firsts = tuple(check_integer("one of networks,", each, least=0) for each in given)
        count = self.num_transforms
        if len(firsts) != count or any(
            first > index or firsts[first] != first for index, first in enumerate(firsts)
        ):
            raise ConfigurationError(
                f"networks {shown(networks)}: give for each of the {count} transforms the index of"
                " the first one whose network it uses; one with a network of its own, its own"
            )
        for index, first in enumerate(firsts):
            for name in (*self.each, "dropout", "conditioned", *WIDTHS):
                own, shared = self.at(index, name), self.at(first, name)
                if own != shared:
                    raise ConfigurationError(
                        f"networks {shown(firsts)}: transforms {first} and {index} cannot share a"
                        f" network, for their {name} differ: {shared} and {own}"
                    )
        keep(self, networks=firsts)

    def _keep_widths(self, name: str) -> None:
        """Check the numbers of every layer of every transform, where they are given."""
        given = getattr(self, name)
        if given is None:
            return
        check_instance("layer", self.layer, PreNorm, f"{name} is for layers of such kinds alone")
        depths = [self.at(index, "num_layers") for index in range(self.num_transforms)]
        listed = given if isinstance(given, tuple | list) else ()
        found = [len(each) if isinstance(each, tuple | list) else None for each in listed]
        if found != depths:
            raise ConfigurationError(
                f"{name} {shown(given)}: give for each of the {self.num_transforms} transforms a"
                f" list with one number for each of its layers, of which there are {depths}"
            )
        read = [[check_integer(f"one of {name},", n, least=1) for n in each] for each in listed]
        keep(self, **{name: tuple(map(tuple, read))})

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


def coordinates(sites: Sequence[int], num_columns: int) -> Coordinates:
    """Row and column of each of some sites in raster order; plain numbers, on no other device."""
    if isinstance(sites, range):  # of which a damaged file may ask for one without end
        numbers = torch.arange(sites.start, sites.stop, sites.step, device="cpu")
    else:
        numbers = torch.tensor([int(site) for site in sites], device="cpu")
    return torch.stack([numbers // num_columns, numbers % num_columns], dim=1)


def check_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Refuse what is not a name of its own for each class."""
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"class_names {shown(names)}: give a list of names")
    if len(names) not in (0, num_classes) or len(set(names)) < len(names):
        raise ConfigurationError(
            f"class_names {shown(names)}: give one for each of the {num_classes} classes, all of"
            " them different, or none"
        )
    return tuple(names)


def _check_truth(name: str, value: Any) -> bool:
    """Refuse what is neither true nor false."""
    if not is_truth(value):
        raise ConfigurationError(f"{name} {shown(value)} must be true or false")
    return bool(value)


def check_dropout(name: str, value: Any) -> float:
    """Refuse what is not a probability below one."""
    number = float(check_real(name, value))
    if not 0 <= number < 1:
        raise ConfigurationError(f"{name} {number} is out of range: 0 <= dropout < 1")
    return number
