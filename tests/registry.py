"""Every transform, one line each: what the contract tests run over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tarflow import (
    AutoregressiveTransform,
    Composition,
    Context,
    ExpScale,
    Ordering,
    Patchify,
    Permute,
    PrefixConditioner,
    Reverse,
    RotaryGrid,
    RotaryPositions,
    Scale,
    SoftClipScale,
    SoftplusScale,
    SplineScale,
    StartToken,
    TokenConditioner,
    Transform,
    UniformLevels,
    UnitScale,
    VectorConditioner,
)
from tarflow.flows.standardization import Decorrelation
from tarflow.flows.transforms import Repatch

from .models import (
    MODERN,
    NETWORKS,
    tiny_autoregressive,
    tiny_flow,
    tiny_tokens,
    tiny_vectors,
)


@dataclass(frozen=True)
class Case:
    """A transform under test.

    Attributes:
        build: Makes the transform, with random weights.
        shape: Shape of one example.
        label: Labels of three examples, for a transform with classes.
        noise_level: Their noise levels, for one of many.
        parts: Other parts of their context.
    """

    build: Callable[[], Transform]
    shape: tuple[int, ...] = (5, 2)
    label: tuple[int, ...] | None = (1, -1, 2)
    noise_level: tuple[float, ...] | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def context(self) -> Context:
        """The condition of the three examples."""
        parts = {"label": self.label, "noise_level": self.noise_level, **self.parts}
        held = {name: torch.tensor(rows) for name, rows in parts.items() if rows is not None}
        return Context(**held)

    def data(self, dtype: torch.dtype, seed: int = 0) -> Tensor:
        """Three examples."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(3, *self.shape, generator=generator).to(dtype)


IMAGE = (2, 4, 4)

NONE = float("nan")
CONDITIONS = {
    "vector": [[0.1, -1.0, 2.0], [NONE] * 3, [1.0, 0.0, 0.5]],
    "tokens": [[[0.3], [NONE], [1.0], [-2.0], [0.7]]] * 2 + [[[NONE]] * 5],
    "prefix": [[[1.0, 2.0, 0.0, -1.0], [NONE] * 4]] * 3,
}
"""Of three examples: a vector, one for each of five positions, and two before them."""


@dataclass(frozen=True)
class Shuffled(Ordering):
    """Another order for each transform."""

    def __call__(self, index: int, length: int) -> list[int]:
        generator = torch.Generator().manual_seed(index)
        return torch.randperm(length, generator=generator).tolist()


def autoregressive(scale: Scale, **options: Any) -> AutoregressiveTransform:
    """An autoregressive transform of one layer: most time goes into compiling."""
    return tiny_autoregressive(scale, num_layers=1, **options)


def decorrelation() -> Decorrelation:
    """A transform that was fitted to correlated vectors."""
    transform, generator = Decorrelation(4), torch.Generator().manual_seed(0)
    transform.fit(torch.randn(50, 4, generator=generator).cumsum(dim=1))
    return transform


REGISTRY = {
    "Reverse": Case(Reverse),
    "Permute": Case(lambda: Permute([2, 0, 4, 1, 3])),
    "Patchify": Case(lambda: Patchify((4, 4), 2), IMAGE),
    "ExpScale": Case(lambda: autoregressive(ExpScale())),
    "SoftClipScale": Case(lambda: autoregressive(SoftClipScale(0.5))),
    "SoftplusScale": Case(lambda: autoregressive(SoftplusScale())),
    "SplineScale": Case(lambda: autoregressive(SplineScale(4))),
    "UnitScale": Case(lambda: autoregressive(UnitScale())),
    **{
        name: Case(partial(autoregressive, ExpScale(), **parts))
        for name, parts in NETWORKS.items()
    },
    "StartToken": Case(lambda: autoregressive(ExpScale(), first=StartToken())),
    "Decorrelation": Case(decorrelation, (4,), None),
    "Repatch": Case(lambda: Repatch(Patchify((4, 4), 2), Patchify((4, 4), 1)), (4, 8)),
    "Composition": Case(lambda: Composition([Reverse(), autoregressive(ExpScale())])),
    "TarFlow": Case(lambda: tiny_flow(num_layers=1, num_classes=3).transform, IMAGE),
    "unequal TarFlow": Case(
        lambda: (
            tiny_flow(
                patch_size=(2, 1, 2),
                num_layers=(1, 2, 1),
                model_dim=(16, 8, 24),
                num_classes=3,
                ordering=Shuffled(),
            ).transform
        ),
        IMAGE,
    ),
    "modern TarFlow": Case(
        lambda: (
            tiny_flow(
                (4, 6),
                num_layers=1,
                num_transforms=2,
                num_classes=3,
                layer=MODERN,
                positions=RotaryGrid(),
                ordering=Shuffled(),
            ).transform
        ),
        (2, 4, 6),
    ),
    "TarFlow of few weights": Case(
        lambda: tiny_flow(num_classes=3, networks=(0, 1, 1), num_layers=1).transform, IMAGE
    ),
    "TarFlow of a conditioned transform": Case(
        lambda: tiny_flow(num_classes=3, conditioned=(False, False, True), num_layers=1).transform,
        IMAGE,
    ),
    "TarFlow of noise levels": Case(
        lambda: (
            tiny_flow(
                num_layers=1, num_transforms=2, num_classes=3, noise=UniformLevels()
            ).transform
        ),
        IMAGE,
        noise_level=(0.01, 0.1, 0.3),
    ),
    "started TarFlow": Case(
        lambda: tiny_flow(num_layers=1, num_classes=3, first=StartToken()).transform, IMAGE
    ),
    "TokenFlow": Case(
        lambda: (
            tiny_tokens(
                conditioners=[
                    VectorConditioner(3),
                    TokenConditioner(5, 1),
                    PrefixConditioner(2, 4),
                ]
            ).transform
        ),
        label=None,
        parts=CONDITIONS,
    ),
    "TokenFlow of orders": Case(
        lambda: tiny_tokens(ordering=Shuffled(), positions=RotaryPositions()).transform,
        label=None,
        parts={"order": [[4, 1, 0, 3, 2], [0, 1, 2, 3, 4], [2, 0, 3, 1, 4]]},
    ),
    "VectorFlow": Case(
        lambda: tiny_vectors(6, token_dim=2, num_classes=3).transform,
        (6,),
    ),
    "unconditional TarFlow": Case(
        lambda: tiny_flow(num_layers=1, num_transforms=2).transform, IMAGE, None
    ),
}
