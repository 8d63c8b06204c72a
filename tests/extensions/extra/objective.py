"""Maximum likelihood with a small penalty."""

from dataclasses import dataclass
from typing import ClassVar

from tarflow import Flow
from tarflow.data import Batch
from tarflow.randomness import RandomSource
from tarflow.training import Loss, Objective


@dataclass(frozen=True)
class PenalizedLikelihood(Objective):
    """Adds a multiple of the largest squared noise of an example."""

    penalty: float = 0.01
    name: ClassVar[str] = "penalized_nats_per_dim"

    def __call__(self, flow: Flow, batch: Batch, source: RandomSource) -> Loss:
        x, context = flow.noisy(batch.x, source), flow.known(batch.context)
        z, log_det = flow(x, context)
        largest = z.square().flatten(1).amax(dim=1)
        value = self.penalty * largest - flow.base.log_prob(z) - log_det
        return Loss(value, x, context, z, {"largest_square": largest})
