"""Flows as distributions of torch, for all that takes these."""

from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.distributions import Distribution, constraints

from tarflow.flows.base import StandardNormal
from tarflow.flows.context import Context
from tarflow.flows.shapes import Examples, PerExample, Sequences


@runtime_checkable
class Distributed(Protocol):
    """What a distribution asks of a flow."""

    base: StandardNormal

    def log_prob(self, x: Examples, context: Context) -> PerExample: ...

    def sample(self, num_samples: int, context: Context) -> Examples: ...

    def inverse(self, z: Sequences, context: Context) -> Examples: ...

    def values(self, points: Examples) -> Examples: ...

    def holds(self, x: Examples, context: Context) -> Bool[Tensor, " batch"]: ...


class FlowDistribution(Distribution):
    """The distributions that a flow has, one for each row of a context.

    `flow.distribution(context)` makes it. Samples follow torch's global generator.

    Args:
        flow: The flow; its weights are used, not copied.
        context: Parts with a row for each distribution.
        batch_shape: The shape in which these are arranged.
        event_shape: That of an example.
        validate_args: Whether values outside of the support are an error; else their log-density
            is minus infinity.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(
        self,
        flow: Distributed,
        context: Context,
        batch_shape: torch.Size,
        event_shape: torch.Size,
        validate_args: bool = False,
    ):
        self.flow, self.context = flow, context
        super().__init__(batch_shape, event_shape, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Where values lie."""
        return FlowSupport(self)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of values, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        x, context, shape = self.matched(value)
        return self.flow.log_prob(x, context).reshape(shape)

    def matched(self, value: Tensor) -> tuple[Examples, Context, torch.Size]:
        """Values in a row, the context of each, and the shape that they had."""
        shape = torch.broadcast_shapes(
            value.shape[: value.ndim - len(self.event_shape)], self.batch_shape
        )
        x = value.expand(shape + self.event_shape).reshape(-1, *self.event_shape)
        return x, self._rows(shape), shape

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples."""
        shape = torch.Size(sample_shape) + self.batch_shape
        x = self.flow.sample(shape.numel(), self._rows(shape))
        return x.reshape(shape + self.event_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw samples that have gradients, to the weights and to the context."""
        shape = torch.Size(sample_shape) + self.batch_shape
        z = self.flow.base.sample(shape.numel())
        x = self.flow.values(self.flow.inverse(z, self._rows(shape)))
        return x.reshape(shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        """The same distributions, repeated."""
        new: Any = self._get_checked_instance(FlowDistribution, _instance)
        new.flow, new.context = self.flow, self._rows(torch.Size(batch_shape))
        own: Any = super(FlowDistribution, new)
        own.__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _rows(self, shape: torch.Size) -> Context:
        """The context with a row for each element of a shape that ends in the batch shape."""

        def rows(part: Tensor) -> Tensor:
            rest = part.shape[1:]
            own = part.reshape(self.batch_shape + rest)
            return own.expand(shape + rest).reshape(-1, *rest)

        return self.context.map(rows)


class FlowSupport(constraints.Constraint):
    """Where the values of a flow lie.

    Args:
        distribution: That of the flow.
    """

    def __init__(self, distribution: FlowDistribution):
        self.distribution = distribution
        super().__init__()

    @property
    def event_dim(self) -> int:
        """Number of dimensions of what is checked together."""
        return len(self.distribution.event_shape)

    def check(self, value: Tensor) -> Tensor:
        """Whether values lie there."""
        x, context, shape = self.distribution.matched(value)
        return self.distribution.flow.holds(x, context).reshape(shape)
