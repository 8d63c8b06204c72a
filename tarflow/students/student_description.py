"""What students are made from, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from tarflow.arguments import check_instance, check_integer, check_size, keep
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Codec
from tarflow.flows.conditioning import LabelConditioner
from tarflow.flows.stack import check_class_names, check_dropout, coordinates
from tarflow.flows.transforms import Patchify
from tarflow.nn.layers import Layer
from tarflow.nn.norms import Norm
from tarflow.nn.positions import Positions
from tarflow.nn.transformer import BidirectionalTransformer
from tarflow.registry import Part
from tarflow.students.solvers import Solver

SIZES = ("patch_size", "num_channels", "num_layers", "model_dim", "head_dim", "expansion")

MOST_STEPS = 1000
"""Number of steps that a velocity may be followed in: more than any sample gains from."""


@dataclass(frozen=True)
class StudentDescription(Part):
    """What every `Student` is made from; see there. Numbers are checked and plain."""

    image_size: int | tuple[int, int]
    patch_size: int
    num_channels: int
    num_layers: int
    model_dim: int
    head_dim: int
    expansion: int
    dropout: float
    num_classes: int
    layer: Layer
    positions: Positions
    output_norm: Norm | None
    codec: Codec | None
    class_names: Sequence[str]

    def __post_init__(self):
        keep(self, image_size=check_size("image_size", self.image_size))
        for name in SIZES:
            keep(self, **{name: check_integer(name, getattr(self, name), least=1)})
        keep(self, num_classes=check_integer("num_classes", self.num_classes, least=0))
        keep(self, dropout=check_dropout("dropout", self.dropout))
        keep(self, class_names=check_class_names(self.class_names, self.num_classes))
        for name, kind in (("layer", Layer), ("positions", Positions)):
            check_instance(name, getattr(self, name), kind, f"pass a {kind.__name__}")
        for name, kind in (("output_norm", Norm), ("codec", Codec)):
            if getattr(self, name) is not None:
                check_instance(name, getattr(self, name), kind, f"pass a {kind.__name__}, or None")

    @property
    def depth(self) -> int:
        """Number of layers of the whole network."""
        return self.num_layers

    @property
    def conditioners(self) -> tuple[LabelConditioner, ...]:
        """What reads labels, where there are classes."""
        return (LabelConditioner(self.num_classes),) if self.num_classes else ()

    def patchify(self) -> Patchify:
        """Make what cuts images into patches."""
        return Patchify(cast(tuple[int, int], self.image_size), self.patch_size)

    def network(self, patchify: Patchify) -> BidirectionalTransformer:
        """Make the transformer, from patches to patches."""
        patch_dim = self.num_channels * self.patch_size**2
        return BidirectionalTransformer(
            patch_dim,
            patch_dim,
            patchify.length,
            self.model_dim,
            self.depth,
            self.head_dim,
            self.expansion,
            self.dropout,
            self.layer,
            self.positions,
            coordinates(range(patchify.length), patchify.grid[1]),
            self.output_norm,
        )


@dataclass(frozen=True)
class InverseStudentDescription(StudentDescription):
    """What an `InverseStudent` is made from; see there."""

    num_blocks: int

    def __post_init__(self):
        super().__post_init__()
        keep(self, num_blocks=check_integer("num_blocks", self.num_blocks, least=1))

    @property
    def depth(self) -> int:
        return self.num_blocks * self.num_layers


@dataclass(frozen=True)
class VelocityStudentDescription(StudentDescription):
    """What a `VelocityStudent` is made from; see there."""

    steps: int
    solver: Solver

    def __post_init__(self):
        super().__post_init__()
        keep(self, steps=check_integer("steps", self.steps, least=1))
        if self.steps > MOST_STEPS:
            raise ConfigurationError(f"steps {self.steps} must be at most {MOST_STEPS}")
        check_instance("solver", self.solver, Solver, "pass Euler() or Heun()")


Description = TypeVar("Description", bound=StudentDescription)


def described(kind: type[Description], given: dict[str, Any]) -> Description:
    """Make a description from the arguments of a constructor."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})
