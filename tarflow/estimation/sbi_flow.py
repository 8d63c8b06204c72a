"""A TarFlow as the package sbi knows density estimators: for posteriors and likelihoods."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tarflow.errors import ConfigurationError
from tarflow.flows.vector_conditioning import VectorConditioner
from tarflow.flows.vector_flow import VectorFlow

SMALLEST_STD = 1e-6
"""Numbers of a condition that vary less are only centred."""

try:
    from sbi.neural_nets.estimators.base import ConditionalDensityEstimator
except ImportError as error:
    raise ConfigurationError(
        "this estimator is for the package sbi, which is not installed: pip install 'tarflow[sbi]'"
    ) from error


class SbiFlow(ConditionalDensityEstimator):
    """A density of vectors given others, by a `VectorFlow`, as `sbi.inference.NPE` trains it.

    Args:
        flow: The flow; it reads a vector.
        condition: Conditions of the training data, which are standardized by their mean and
            deviation.
        embedding: What makes the flow's vector of a standardized condition.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, flow: VectorFlow, condition: Tensor, embedding: nn.Module):
        super().__init__(flow, torch.Size(flow.example_shape), condition.shape[1:])
        self.flow = flow  # what sbi calls `net`
        self._embedding_net = embedding
        std = condition.std(dim=0)
        self.register_buffer("mean", condition.mean(dim=0))
        self.register_buffer("std", std.where(std > SMALLEST_STD, 1.0))

    @property
    def embedding_net(self) -> nn.Module:
        """What makes the flow's vector."""
        return self._embedding_net

    def log_prob(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """Log-densities, in nats, of the shape (samples, batch)."""
        input, condition, batch = self._broadcast_and_align(input, condition)
        vector = self.embedded(condition.reshape(-1, *self.condition_shape))
        found = self.flow.log_prob(input.reshape(-1, *self.input_shape), {"vector": vector})
        return found.reshape(-1, batch)

    def loss(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """The negative log-density of each example."""
        return -self.flow.log_prob_bound(input, {"vector": self.embedded(condition)})

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int], condition: Tensor, **_: Any) -> Tensor:
        """Draw samples of the shape (*sample_shape, batch, *input_shape)."""
        return self.flow.distribution({"vector": self.embedded(condition)}).sample(sample_shape)

    @torch.no_grad()
    def sample_and_log_prob(
        self, sample_shape: Sequence[int], condition: Tensor, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Draw samples, and tell their log-density, from one pass."""
        vector = self.embedded(condition)
        shape = torch.Size(sample_shape) + vector.shape[:1]
        rows = vector.expand(shape + vector.shape[1:]).reshape(-1, vector.shape[-1])
        x, log_prob = self.flow.sample_and_log_prob(len(rows), {"vector": rows})
        return x.reshape(shape + self.input_shape), log_prob.reshape(shape)

    def embedded(self, condition: Tensor) -> Tensor:
        """The flow's vectors of conditions."""
        return self._embedding_net((condition - self.mean) / self.std)


def sbi_flow(
    embedding: nn.Module | None = None, **options: Any
) -> Callable[[Tensor, Tensor], SbiFlow]:
    """What `NPE(density_estimator=...)` and `NLE(density_estimator=...)` of sbi take.

    Args:
        embedding: Makes a vector of a condition that is standardized; by default it is flattened.
        **options: Of the `VectorFlow`, as `num_transforms` and `supports`.
    """

    def build(input: Tensor, condition: Tensor) -> SbiFlow:
        made = nn.Flatten(start_dim=-len(condition.shape[1:])) if embedding is None else embedding
        with torch.no_grad():
            size = made(condition[:1]).shape[-1]
        sizes = {"num_layers": 2, "model_dim": 64, "head_dim": 16, **options}
        flow = VectorFlow(input.shape[1], conditioners=[VectorConditioner(size)], **sizes)
        flow.standardize(input)
        return SbiFlow(flow, condition, made)

    return build
