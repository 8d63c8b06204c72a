"""The smallest flow whose likelihood on some images is within a tolerance of another's."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from tarflow.arguments import check_integer, check_real
from tarflow.compression.skeletons import Skeletons
from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import ConfigurationError
from tarflow.evaluation.likelihood import noisy_inputs
from tarflow.flows.context import Context
from tarflow.flows.flow import Flow
from tarflow.flows.tar_flow import TarFlow
from tarflow.flows.unit import Unit
from tarflow.randomness import ExampleStreams
from tarflow.sampling.drawing import batches_of

FINENESS = 1000
"""The search ends where the next step would be less than one unit in so many."""


@dataclass(frozen=True, eq=False)
class SomeImages:
    """Some images of a part of a data set, chosen at random, each with noise of its own.

    Attributes:
        part: The part.
        num_images: How many, at most.
        batch_size: Number of images that are read at a time.
        seed: Seed of the choice and of the noise.
    """

    part: Any
    num_images: int
    batch_size: int
    seed: int = 0

    def __post_init__(self):
        for name in ("num_images", "batch_size"):
            check_integer(name, getattr(self, name), least=1)

    def __len__(self) -> int:
        return min(self.num_images, len(self.part))

    def batches(self, flow: Flow) -> Iterator[tuple[Tensor, Context]]:
        """The images as a flow takes them, and what it is conditioned on: always the same."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(self.part), generator=generator)[: len(self)]
        read = ReadAhead(Subset(self.part, chosen.tolist()))
        for indices in batches_of(len(self), self.batch_size):
            yield noisy_inputs(flow, read(indices), ExampleStreams(self.seed, indices), flow.noise)


@torch.no_grad()
def likelihoods(flow: Flow, images: SomeImages) -> Tensor:
    """The negative log-likelihood of every image, in the flow's own unit per dimension."""
    found = [flow.log_prob(x, context).double().cpu() for x, context in images.batches(flow)]
    return Unit.of(flow)(torch.cat(found))


@dataclass(frozen=True, eq=False)
class Tried:
    """A smaller flow.

    Attributes:
        flow: The flow.
        threshold: The threshold that it was made with.
        rise: By how much the mean negative log-likelihood rose, in the flow's unit.
    """

    flow: TarFlow
    threshold: float
    rise: float


@dataclass(frozen=True)
class Bisection:
    """Finds the largest threshold at which the likelihood is within a tolerance.

    Attributes:
        images: What the mean likelihood is taken of.
        tolerance: By how much the negative log-likelihood may rise, in the flow's unit.

    Raises:
        ConfigurationError: The tolerance is negative or not finite.
    """

    images: SomeImages
    tolerance: float

    def __post_init__(self):
        if not 0 <= check_real("tolerance", self.tolerance) < math.inf:
            raise ConfigurationError(
                f"tolerance {self.tolerance} must be finite and not negative: by how much the"
                " negative log-likelihood per dimension may rise"
            )

    def __call__(
        self, skeletons: Skeletons, show: Callable[[Tried], None] = lambda tried: None
    ) -> Tried:
        """The flow, made of a larger one's units; `show` is called with all that is tried."""
        before, levels = likelihoods(skeletons.flow, self.images), skeletons.thresholds

        def attempt(index: int) -> Tried:
            flow = skeletons.at(float(levels[index]))
            rise = (likelihoods(flow, self.images) - before)[before.isfinite()].mean()
            tried = Tried(flow, float(levels[index]), float(rise))
            show(tried)
            return tried

        best, low, high = attempt(0), 0, len(levels)
        while high - low > max(1, len(levels) // FINENESS):
            middle = (low + high) // 2
            tried = attempt(middle)
            if tried.rise <= self.tolerance:  # what is not a number is not
                best, low = tried, middle
            else:
                high = middle
        return best
