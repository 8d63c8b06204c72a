"""Fits flows to rows for a processor time that is the same for all of them."""

import copy
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tarflow.ablation.baselines import imported
from tarflow.ablation.densities.density_data import DensityData
from tarflow.ablation.densities.flow_settings import FlowSetting
from tarflow.ablation.fitting import OPTIMIZERS, rate
from tarflow.estimation.likelihood_fit import LARGEST_NORM, batches, follow
from tarflow.flows.standardization import Decorrelation
from tarflow.flows.vector_flow import VectorFlow

LOOKS = 40
"""How often validation rows are looked at; the best average of the weights is kept."""
PART = 2048
"""Largest number of rows whose density is computed at once."""


class RowDensity(nn.Module, ABC):
    """A flow of rows."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        """Log-densities, in nats."""

    def prepare(self, x: Float[Tensor, "rows columns"]) -> None:
        """Learn from training rows before it is trained: nothing."""

    def spread(self, noise: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Noise on what is trained, as noise on rows."""
        return noise

    @torch.no_grad()
    def log_prob(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        """Log-densities of many rows, one part after the other."""
        return torch.cat([self(part) for part in x.split(PART)])


class VectorRows(RowDensity):
    """A `VectorFlow`; options are its own."""

    def __init__(self, dim: int, **options: Any):
        super().__init__()
        self.flow = VectorFlow(dim, **options)

    def prepare(self, x: Float[Tensor, "rows columns"]) -> None:
        self.flow.standardize(x)

    def spread(self, noise: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        for transform in self.flow.transform:
            if isinstance(transform, Decorrelation):
                return noise @ transform.factor.T
        return noise

    def forward(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        return self.flow.log_prob(x)


class ZukoRows(RowDensity):
    """A flow of zuko; options are its own."""

    def __init__(self, name: str, dim: int, **options: Any):
        super().__init__()
        # Muon moves the matrices of what is called so.
        self.blocks = getattr(imported("zuko").flows, name)(dim, **options)

    def forward(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        return self.blocks().log_prob(x)


@dataclass(frozen=True)
class FlowTrial:
    """A flow that was fitted with one of its settings.

    Attributes:
        setting: How it was made.
        model: The flow, with the best average of its weights.
        loss: The mean negative log-density of validation rows, in nats.
        steps: Number of steps.
        skipped: Number of those that were not finite, and changed nothing.
        best: Share of the time after which the best average was reached.
        seconds: Processor time.
    """

    setting: FlowSetting
    model: RowDensity
    loss: float
    steps: int
    skipped: int
    best: float
    seconds: float


def fit_rows(
    model: RowDensity, setting: FlowSetting, data: DensityData, seed: int, seconds: float
) -> FlowTrial:
    """Maximize the likelihood of training rows, and keep what is best on validation rows.

    The clock is the processor time of this process; looks at validation rows do not count.
    """
    optimizer = OPTIMIZERS[setting.optimizer](
        model.named_parameters(), lr=setting.lr, weight_decay=setting.weight_decay
    )
    source = torch.Generator().manual_seed(seed)
    train, validation = data.train.float(), data.validation.float()
    model.prepare(train)
    average, kept = copy.deepcopy(model).eval(), copy.deepcopy(model.state_dict())
    least, at, used, steps, looks, skipped = math.inf, 0.0, 0.0, 0, 0, 0
    rows = batches(len(train), setting.batch_size, source)
    while used < seconds:
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = setting.lr * rate(used / seconds)
        x = train[next(rows)]
        x = x + model.spread(setting.noise * torch.randn(x.shape, generator=source))
        skipped += not _step(model, optimizer, x)
        steps += 1
        follow(average, model, steps)
        used += time.process_time() - start
        if used * LOOKS >= seconds * (looks + 1):
            looks = int(used * LOOKS / seconds)
            loss = -float(average.log_prob(validation).double().mean())
            if loss < least:
                least, at, kept = loss, used / seconds, copy.deepcopy(average.state_dict())
    average.load_state_dict(kept)
    return FlowTrial(setting, average, least, steps, skipped, min(at, 1.0), used)


def _step(model: RowDensity, optimizer: torch.optim.Optimizer, x: Tensor) -> bool:
    """Take a step; whether it was finite."""
    loss = -model.train()(x).mean() / x.shape[1]
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
    if not norm.isfinite():
        return False
    optimizer.step()
    return True
