"""Fits a density for a time that is the same for all of them."""

import copy
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tarflow.ablation.baselines import Baseline
from tarflow.ablation.variants import Model, Variant
from tarflow.data.loading.batches import Batch
from tarflow.flows.context import Context
from tarflow.flows.noise_levels import NoiseLevels
from tarflow.training import MaximumLikelihood, adamw, muon

OPTIMIZERS = {"adamw": adamw, "muon": muon}
DECAY = 0.998
WARM_UP = 0.1
"""Share of the time in which the learning rate rises; then it falls along a cosine."""
LOOKS = 10
"""How often the validation part is looked at; the best weights are kept."""
CLASS_DROPOUT = 0.1


@dataclass
class Fit:
    """A fitted density."""

    average: Model  # that of averaged weights which is best on the validation part
    raw: Model  # that of the last weights
    steps: int = 0
    skipped: int = 0  # how many of the steps were not finite, and changed nothing
    curve: list[float] = field(default_factory=list)  # validation losses, in nats per dimension


def fit(model: Model, variant: Variant, train: Batch, validation: Batch, seconds: float) -> Fit:
    """Maximize the likelihood of noisy images, and choose weights by the validation part.

    The clock is the processor time of this process, which counts what a run computes and not
    what runs beside it; looks at the validation part do not count.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return Fit(model, model)
    optimizer = OPTIMIZERS[variant.optimizer](model.named_parameters(), lr=variant.lr)
    average, best = copy.deepcopy(model), (math.inf, copy.deepcopy(model.state_dict()))
    result, used = Fit(average, model), 0.0
    while used < seconds:
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = variant.lr * rate(used / seconds)
        rows = torch.randint(len(train.x), (variant.batch_size,))
        context = train.context.map(lambda part, rows=rows: part[rows])
        loss = _loss(model.train(), train.x[rows], context)
        result.skipped += not _step(model, optimizer, loss, variant.max_grad_norm)
        _follow(average, model, result.steps)
        result.steps += 1
        used += time.process_time() - start
        if used * LOOKS >= seconds * (len(result.curve) + 1):
            result.curve.append(validation_loss(average, validation))
            if result.curve[-1] < best[0]:
                best = (result.curve[-1], copy.deepcopy(average.state_dict()))
    average.load_state_dict(best[1])
    average.eval()
    model.eval()
    return result


def rate(progress: float) -> float:
    """The learning rate after a share of the time, as a share of its peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
    return max(progress / WARM_UP if progress < WARM_UP else cosine, 1e-3)


def _step(model: Model, optimizer: Optimizer, loss: Tensor, max_grad_norm: float) -> bool:
    """Take a step; whether it was finite."""
    optimizer.zero_grad()
    if loss.isfinite():
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        if norm.isfinite():
            optimizer.step()
            return True
    return False


def _loss(model: Model, stored: Tensor, context: Context) -> Tensor:
    """Negative log-likelihood, in nats per dimension."""
    if isinstance(model, Baseline):
        x, _ = model.observe(stored)
        return -model.log_prob(x).mean() / x[0].numel()
    power = int(isinstance(model.noise, NoiseLevels))
    objective = MaximumLikelihood(CLASS_DROPOUT, level_power=power)
    loss = objective(model, Batch(stored, context, torch.arange(len(stored))), None)
    assert loss.z is not None
    moment = model.base.moment(loss.z)
    if moment is not None:
        model.base.update(moment)
    return loss.value.mean() / model.num_dims


@torch.no_grad()
def _follow(average: Model, model: Model, step: int) -> None:
    """Move averaged weights towards those of a model; buffers are taken over."""
    decay = min(DECAY, (1 + step) / (10 + step))
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for buffer, value in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(value)


@torch.no_grad()
def log_probs(model: Model, batch: Batch, seed: int, **options: Any) -> Tensor:
    """Log-densities of images with the noise of a seed; NaN where they are not finite.

    Options are those of `Density.observe`.
    """
    source = torch.Generator().manual_seed(seed)
    x, known = model.eval().observe(batch.x, batch.context, source, **options)
    found = []
    for rows in torch.arange(len(x)).split(256):
        context = known.map(lambda part, rows=rows: part[rows])
        found.append(model.log_prob(x[rows], context).double())
    log_prob = torch.cat(found)
    return log_prob.where(log_prob.isfinite(), math.nan)


def validation_loss(model: Model, batch: Batch) -> float:
    """Nats per dimension of images with one draw of their noise; infinite if any is not finite."""
    loss = float(-log_probs(model, batch, 1).mean()) / batch.x[0].numel()
    return loss if math.isfinite(loss) else math.inf
