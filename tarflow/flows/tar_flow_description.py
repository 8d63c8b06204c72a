"""What a TarFlow is made from, checked, and the transforms that it describes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from tarflow.arguments import check_integer, check_size, keep
from tarflow.flows.codec import Codec
from tarflow.flows.stack import SIZES, Each, Stack, coordinates
from tarflow.flows.transforms import Patchify, Repatch, Transform
from tarflow.nn.positions import Coordinates


@dataclass(frozen=True, kw_only=True)
class TarFlowDescription(Stack):
    """What a `TarFlow` is made from; see there."""

    each: ClassVar[tuple[str, ...]] = ("patch_size", *SIZES)

    image_size: int | tuple[int, int]
    patch_size: Each
    num_channels: int
    codec: Codec | None

    def __post_init__(self):
        keep(self, image_size=check_size("image_size", self.image_size))
        keep(self, num_channels=check_integer("num_channels", self.num_channels, least=1))
        super().__post_init__()

    def patchify(self, index: int) -> Patchify:
        """Make what cuts an image into the patches of one transform."""
        return Patchify(cast(tuple[int, int], self.image_size), self.at(index, "patch_size"))

    def shape(self, index: int) -> tuple[int, int]:
        patchify = self.patchify(index)
        return patchify.length, self.num_channels * patchify.patch_size**2

    def coordinates(self, index: int, sites: Sequence[int]) -> Coordinates:
        return coordinates(sites, self.patchify(index).grid[1])

    def before(self, index: int) -> Iterator[Transform]:
        """Cut the image into patches; where their size changes, it is one again and cut anew."""
        own = self.patchify(index)
        if index == 0:
            yield own
            return
        before = self.patchify(index - 1)
        if own.patch_size != before.patch_size:
            yield Repatch(before, own)
