"""Flows of numbers within supports, whose values may stand for several points each."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tarflow.flows.codec import Codec
from tarflow.flows.context import Context, ContextLike
from tarflow.flows.flow import Flow
from tarflow.flows.noise import Noise, NoNoise
from tarflow.flows.shapes import Examples, PerExample
from tarflow.flows.stack import Stack
from tarflow.flows.standardization import FittedTransform
from tarflow.flows.supported import Supported
from tarflow.randomness import RandomSource, uniform


class SupportedFlow(Flow):
    """A flow whose transforms begin with what leads from supports to standardized numbers.

    An angle stands for all its turns, and an integer for a cell: `log_prob` is that of values, and
    sums up the density of points that the transforms know, which `flow(x)` maps to noise.
    """

    def __init__(self, description: Stack, shape: tuple[int, ...], codec: Codec | None = None):
        """Make the transforms of a description, for examples of a shape."""
        parts = description.transforms(), description.base()
        super().__init__(*parts, codec, description.noise, description)
        self.shape = shape

    @property
    def example_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def supported(self) -> Supported:
        """What knows the supports."""
        return next(each for each in self.transform if isinstance(each, Supported))

    def standardize(self, x: Examples, context: ContextLike = None) -> None:
        """Fit what takes off mean, deviation and, of vectors, correlations of training data.

        Raises:
            ConfigurationError: A column is constant, holds what is not finite, or lies outside of
                its support.
        """
        self.check_data(x)
        read = self._read(context, x)
        self.supported.check(x, read)
        x = x + 0.5 * self.supported.cells(x)
        for transform, own in zip(self.transform, self.transform.contexts(read), strict=True):
            if transform.num_decoded:
                return
            if isinstance(transform, FittedTransform):
                transform.fit(x, own.get("mask"))
            x, _ = transform(x, own)

    def log_prob(self, x: Examples, context: ContextLike = None) -> PerExample:
        """Log-density of each example, in nats, summed over all dimensions.

        It is minus infinity outside of the support. Of integers it is a logarithm of probability,
        the mean density of 16 points that fill the cell: near, not exact, where that is steep.
        """
        return self._log_prob(x, context, None)

    def log_prob_bound(
        self, x: Examples, context: ContextLike = None, source: RandomSource = None
    ) -> PerExample:
        """On average a lower bound of `log_prob`: that of one point in each cell. To train by."""
        if not self.supported.has_cells:
            return self._log_prob(x, context, None)
        at = uniform(x.shape, source, x.dtype, x.device, "noise")
        return self._log_prob(x, context, at[None])

    def _log_prob(
        self, x: Examples, context: ContextLike, at: Float[Tensor, "points *example"] | None
    ) -> PerExample:
        """The log-density of values, by given points of their cells, or those that are spread."""
        supported = self.supported
        if not supported.folds:
            return self.point_log_prob(x, context)
        self.check_data(x)
        read = self.read_context(context, x)
        points = supported.unfolded(x, at)
        many = points.shape[:2].numel()
        repeated = read.map(lambda part: part.repeat(many, *(1,) * (part.ndim - 1)))
        each = self.point_log_prob(points.flatten(0, 2), repeated).unflatten(0, points.shape[:3])
        total = each.flatten(0, 1).logsumexp(dim=0) - math.log(points.shape[1])
        return total.where(supported.holds(x, read), -torch.inf)

    def observe(
        self,
        stored: Tensor,
        context: ContextLike = None,
        source: RandomSource = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise | None = None,
    ) -> tuple[Examples, Context]:
        """Values as points, one in each cell, with the noise of training if there is one."""
        x = stored.to(dtype)
        if self.supported.has_cells:
            at = uniform(x.shape, source, dtype, x.device, "noise")
            x = x + at * self.supported.cells(x)
        noise, known = noise or self.noise, self.known(Context.of(context, len(x), x.device))
        if noise is None:
            return x, known
        x, told = noise.drawn(x, source)
        return x, known.updated(**told.parts)

    def held_out(
        self,
        stored: Tensor,
        context: ContextLike = None,
        source: RandomSource = None,
        dtype: torch.dtype = torch.float32,
        noise: Noise | None = None,
    ) -> tuple[Examples, Context]:
        """Values as they are, all of whose points `log_prob` sums up; with noise, one of these."""
        if not isinstance(noise or self.noise, NoNoise | None):
            return self.observe(stored, context, source, dtype, noise)
        return stored.to(dtype), self.known(Context.of(context, len(stored), stored.device))

    def holds(self, x: Examples, context: Context = Context()) -> Bool[Tensor, " batch"]:
        return self.supported.holds(x, context)

    def values(self, points: Examples) -> Examples:
        return self.supported.fold(points) if self.supported.folds else points
