"""Bijections between data and noise: the contract, and those that need no network."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.arguments import check_instance, check_integer, check_size, shown
from tarflow.errors import ConfigurationError
from tarflow.flows.conditioning import Conditioner
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.report import Blame, Inverse, SamplingReport
from tarflow.flows.shapes import PerExample, Sequences


class Transform(nn.Module, ABC):
    """A bijection from data x to noise z that may depend on a context.

    Neither direction changes its input in place, and none casts it below float32.
    """

    num_decoded: int = 0
    """Number of autoregressive transforms within: those whose inverse is decoded."""

    conditioners: tuple[Conditioner, ...] = ()
    """What reads the parts of a context for the transform."""

    def known(self, context: Context) -> Context:
        """The parts of a context that the transform is conditioned on."""
        return Context(**{c.part: context.get(c.part) for c in self.conditioners})

    @property
    def by_position(self) -> frozenset[str]:
        """Parts of a context that have a value for each position, and move with these."""
        return frozenset(c.part for c in self.conditioners if c.by_position)

    def carried(self, context: Context, by_position: frozenset[str]) -> Context:
        """The context behind the transform: other than before it where it moves positions.

        Args:
            context: That before it.
            by_position: The parts that have a value for each position.
        """
        return context

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, PerExample]:
        r"""Map data to noise; also return $\log |\det dz/dx|$ of each example, in nats."""

    @abstractmethod
    def inverse(
        self, z: Tensor, context: Context, options: DecodeOptions = DecodeOptions()
    ) -> Inverse:
        """Map noise to data."""

    def hold(self, x: Tensor, context: Context) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The noise of x, detached, and the inverse with all that predictions read held at x.

        That inverse maps the noise to x in one parallel pass, and has the gradients of what was
        predicted; without predictions, it is `inverse`.
        """
        z = self(x.detach(), context)[0].detach()
        return z, lambda z: self.inverse(z, context).x


class VolumePreserving(Transform):
    """A transform whose log-determinant is zero."""

    @abstractmethod
    def to_noise(self, x: Tensor, context: Context) -> Tensor:
        """Map data to noise."""

    @abstractmethod
    def to_data(self, z: Tensor, context: Context) -> Tensor:
        """Map noise to data."""

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, PerExample]:
        return self.to_noise(x, context), self._no_log_det(x)

    def inverse(
        self, z: Tensor, context: Context, options: DecodeOptions = DecodeOptions()
    ) -> Inverse:
        return Inverse(self.to_data(z, context), self._no_log_det(z))

    @staticmethod
    def _no_log_det(x: Tensor) -> PerExample:
        """Zeros."""
        return x.new_zeros(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))


class Rearrangement(VolumePreserving):
    """A transform that only moves numbers, those of all examples alike."""

    @abstractmethod
    def arrange(self, x: Tensor) -> Tensor:
        """Move the numbers."""

    @abstractmethod
    def restore(self, z: Tensor) -> Tensor:
        """Move them back."""

    def to_noise(self, x: Tensor, context: Context) -> Tensor:
        return self.arrange(x)

    def to_data(self, z: Tensor, context: Context) -> Tensor:
        return self.restore(z)


IMAGE = "batch channels (rows p) (columns q)"
PATCHES = "batch (rows columns) (channels p q)"


class Patchify(Rearrangement):
    """Cuts images into square patches in raster order, channel-major within a patch.

    Raises:
        ConfigurationError: The patches do not tile the image.
    """

    def __init__(self, image_size: tuple[int, int], patch_size: int):
        super().__init__()
        height, width = check_size("image_size", image_size)
        patch_size = check_integer("patch_size", patch_size, least=1)
        if height % patch_size or width % patch_size:
            raise ConfigurationError(
                f"patch_size {patch_size} does not divide the image size {height} x {width}"
            )
        self.image_size = (height, width)
        self.grid = (height // patch_size, width // patch_size)
        self.patch_size = patch_size

    @property
    def length(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]

    def arrange(self, x: Float[Tensor, "batch channels height width"]) -> Sequences:
        if x.ndim != 4 or tuple(x.shape[-2:]) != self.image_size:
            raise ConfigurationError(
                f"images of shape {tuple(x.shape)} in a flow of {self.image_size} images"
            )
        return rearrange(x, f"{IMAGE} -> {PATCHES}", p=self.patch_size, q=self.patch_size)

    def restore(self, z: Sequences) -> Float[Tensor, "batch channels height width"]:
        sizes = {"rows": self.grid[0], "p": self.patch_size, "q": self.patch_size}
        return rearrange(z, f"{PATCHES} -> {IMAGE}", **sizes)


class Repatch(Rearrangement):
    """Puts the patches of a sequence together and cuts the image into patches of another size."""

    def __init__(self, before: Patchify, after: Patchify):
        super().__init__()
        self.before, self.after = before, after

    def arrange(self, x: Sequences) -> Float[Tensor, "batch new_length new_patch_dim"]:
        return self.after.arrange(self.before.restore(x))

    def restore(self, z: Float[Tensor, "batch new_length new_patch_dim"]) -> Sequences:
        return self.before.arrange(self.after.restore(z))


class Composition(Transform):
    """Applies transforms one after the other; the first is nearest the data.

    One that is in several places has the same weights there.
    """

    def __init__(self, transforms: Iterable[Transform]):
        super().__init__()
        if not isinstance(transforms, Iterable):
            raise ConfigurationError(f"transforms {shown(transforms)} are not a list of them")
        listed = list(transforms)
        for index, transform in enumerate(listed):
            check_instance(f"transforms[{index}]", transform, Transform, "pass a list of them")
        firsts: dict[int, int] = {}
        self._places = [firsts.setdefault(id(each), i) for i, each in enumerate(listed)]
        self.transforms = nn.ModuleList()
        for index, place in enumerate(
            self._places
        ):  # one that comes again is held, and kept, once
            self.transforms.add_module(str(index), listed[index] if place == index else None)
        self.num_decoded = sum(transform.num_decoded for transform in self)
        self.conditioners = tuple(dict.fromkeys(c for each in self for c in each.conditioners))

    def __iter__(self) -> Iterator[Transform]:
        return iter([self[index] for index in range(len(self))])

    def __getitem__(self, index: int) -> Transform:
        return cast(Transform, self.transforms[self._places[index]])

    def __len__(self) -> int:
        return len(self.transforms)

    def contexts(self, context: Context) -> list[Context]:
        """The context of each transform, on the side of the data."""
        by_position = frozenset(name for name in self.by_position if name in context)
        if not by_position:
            return [context] * len(self)
        found = [context]
        for transform in list(self)[:-1]:
            found.append(transform.carried(found[-1], by_position))
        return found

    def forward(self, x: Tensor, context: Context) -> tuple[Tensor, PerExample]:
        log_dets = []
        for transform, own in zip(self, self.contexts(context), strict=True):
            x, log_det = transform(x, own)
            log_dets.append(log_det)
        return x, torch.stack(log_dets).sum(dim=0)

    def inverse(
        self, z: Tensor, context: Context, options: DecodeOptions = DecodeOptions()
    ) -> Inverse:
        steps = []
        for transform, own in [*zip(self, self.contexts(context), strict=True)][::-1]:
            steps.append(transform.inverse(z, own, options))
            z = steps[-1].x
            options = options.deeper(transform.num_decoded)
        log_det = torch.stack([step.log_det for step in steps]).sum(dim=0)
        return Inverse(z, log_det, SamplingReport.stack([step.report for step in steps]))

    def hold(self, x: Tensor, context: Context) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        inverses = []
        for transform, own in zip(self, self.contexts(context), strict=True):
            x, inverse = transform.hold(x, own)
            inverses.append(inverse)
        return x, lambda z: reduce(lambda z, inverse: inverse(z), reversed(inverses), z)

    def blame(self, report: SamplingReport, row: int) -> Blame:
        """Why an example is not finite, by the report of its decoding."""
        depths = [depth for depth in range(len(report)) if not report.finite[depth, row]]
        if not depths:
            return "the data is not finite", None
        decoded = [i for i, each in enumerate(self) for _ in range(each.num_decoded)]
        index = decoded[::-1][depths[0]]
        return (
            f"the inverse of transform {index} ({type(self[index]).__name__}) is not finite: lower"
            " the guidance weight, or decode in a higher precision"
        ), index
