"""Random draws that do not depend on the batch they are made in."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tarflow.arguments import check_integer, keep, shown
from tarflow.errors import ConfigurationError


def stream_seed(seed: int, purpose: str, index: int) -> int:
    """Seed of one of many streams, each a function of a seed, a purpose and its index."""
    # torch's CPU generator reads 32 bits of its seed. Adding the index to a hash keeps the
    # streams of one run distinct, which hashing both would not (birthday paradox).
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return (int.from_bytes(digest[:4], "little") + index) % 2**32


@dataclass(frozen=True)
class ExampleSeeds:
    """One random stream per example, a function of a seed and the example's index alone.

    Draws are made on the CPU, so that they are the same on every device.

    Attributes:
        indices: Index of each example in the run.
    """

    seed: int
    indices: Sequence[int]

    def __post_init__(self):
        keep(self, seed=check_integer("seed", self.seed))
        if not isinstance(self.indices, Sequence | torch.Tensor | np.ndarray):
            raise ConfigurationError(f"indices {shown(self.indices)} must be a list of integers")
        if not isinstance(self.indices, range):
            for index in self.indices:
                check_integer("one of indices,", index)

    def __len__(self) -> int:
        return len(self.indices)

    def generators(self, purpose: str) -> list[torch.Generator]:
        """A generator per example; other purposes get independent streams."""
        seeds = (stream_seed(self.seed, purpose, index) for index in self.indices)
        return [torch.Generator().manual_seed(seed) for seed in seeds]


@dataclass(frozen=True)
class ExampleStreams(ExampleSeeds):
    """Example seeds whose streams go on from draw to draw, where seeds alone start anew.

    Example:
        >>> streams = ExampleStreams.of(ExampleSeeds(0, [3]))
        >>> torch.equal(*(normal((1, 2), streams, torch.float32, "cpu") for _ in range(2)))
        False
    """

    started: dict[str, list[torch.Generator]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: "RandomSource") -> "RandomSource":
        """Streams of example seeds; another source goes on by itself."""
        return cls(source.seed, source.indices) if isinstance(source, ExampleSeeds) else source

    def generators(self, purpose: str) -> list[torch.Generator]:
        if purpose not in self.started:
            self.started[purpose] = super().generators(purpose)
        return self.started[purpose]


@dataclass(frozen=True)
class Share:
    """Rows of a batch that several draw parts of: what a row gets does not depend on the parts.

    Everyone draws the whole batch, on its own device, and keeps its rows: at the size of training
    batches that takes less time than to start a stream for every row.

    Attributes:
        seed: The seed of the batch.
        start: The first of the rows.
        total: Number of rows of the whole batch.

    Example:
        >>> whole = normal((4, 2), Share(0, 0, 4), torch.float32, "cpu")
        >>> torch.equal(normal((2, 2), Share(0, 2, 4), torch.float32, "cpu"), whole[2:])
        True
    """

    seed: int
    start: int
    total: int


RandomSource = torch.Generator | ExampleSeeds | Share | None
"""Where draws come from: a generator, one stream per example, a share of a batch's draws, or
torch's global generator."""


def normal(
    shape: Sequence[int],
    source: RandomSource,
    dtype: torch.dtype,
    device: torch.device | str,
    purpose: str = "draw",
) -> Tensor:
    """Draw a batch of standard normal numbers; the first dimension is the batch.

    Draws for different purposes are independent, where the source has seeds.
    """
    return _draw(torch.randn, purpose, shape, source, dtype, device)


def uniform(
    shape: Sequence[int],
    source: RandomSource,
    dtype: torch.dtype,
    device: torch.device | str,
    purpose: str = "draw",
) -> Tensor:
    """Draw a batch of numbers from [0, 1), as `normal` does."""
    return _draw(torch.rand, purpose, shape, source, dtype, device)


def _draw(function, purpose, shape, source, dtype, device) -> Tensor:
    """Draw with torch's `rand` or `randn`; seeds draw float32, so that all dtypes agree."""
    purpose = f"{function.__name__}/{purpose}"
    if isinstance(source, ExampleSeeds):
        if len(source) != shape[0]:
            raise ConfigurationError(f"{len(source)} example seeds for a batch of {shape[0]}")
        size, streams = tuple(shape[1:]), source.generators(purpose)
        rows = [function(size, generator=stream, dtype=torch.float32) for stream in streams]
        drawn = torch.stack(rows) if rows else torch.empty(tuple(shape))
    elif isinstance(source, Share):
        generator = torch.Generator(device).manual_seed(stream_seed(source.seed, purpose, 0))
        told = {"generator": generator, "dtype": torch.float32, "device": device}
        whole = function((source.total, *shape[1:]), **told)
        drawn = whole[source.start : source.start + shape[0]]
    elif isinstance(source, torch.Generator | None):
        where = device if source is None else source.device
        wide = torch.promote_types(dtype, torch.float32)
        drawn = function(tuple(shape), generator=source, dtype=wide, device=where)
    else:
        raise ConfigurationError(
            f"source {shown(source)} is not a source of random numbers: pass a torch.Generator,"
            " ExampleSeeds(seed, indices) or None"
        )
    return drawn.to(device, dtype)
