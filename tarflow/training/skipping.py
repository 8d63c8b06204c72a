"""Steps that are not finite: they change nothing, and nobody waits for the device to learn it."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from tarflow.errors import ContextError, NonFiniteError, TarflowError
from tarflow.training.late import Late
from tarflow.training.objective import Loss

ADVICE = (
    "Try a lower learning rate, a longer warm-up, a lower max_grad_norm, a bounded scale"
    " (model.scale._target_=tarflow.SoftClipScale), or precision 32-true. The last checkpoint is"
    " untouched: the same command with resume=auto goes on from it"
)


class DivergenceError(TarflowError):
    """Training produces values that are not finite, again and again."""


@dataclass(frozen=True)
class TakenStep:
    """A step that was taken, or skipped.

    Attributes:
        number: Number of steps before it.
        losses: The loss of each batch that it was made of.
        flags: Whether it was finite, and whether it counts as skipped.
    """

    number: int
    losses: list[Loss]
    flags: Late


def skip_unless(finite: Tensor, optimizer: Optimizer, scaler: GradScaler | None) -> None:
    """Let the next step of an optimizer change nothing, unless a flag on the device is set.

    Optimizers with fused kernels look at such a flag themselves. Any other is waited for: it
    passes over parameters without a gradient.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        if not finite:
            optimizer.zero_grad(set_to_none=True)
        return
    found = finite.logical_not().float()
    if scaler is None:
        optimizer.found_inf = found  # pyright: ignore[reportAttributeAccessIssue]
        return
    for overflow in scaler._found_inf_per_device(optimizer).values():  # which it hands over
        torch.maximum(overflow, found, out=overflow)


def counts_as_skipped(finite: Tensor, loss: Tensor, scaler: GradScaler | None) -> Tensor:
    """Whether a step was skipped for more than an overflow of a scaled loss.

    The scale of a loss is halved where gradients overflow, until they do not.
    """
    if scaler is None:
        return ~finite
    scale = scaler._get_scale_async()
    assert scale is not None
    return ~finite & (~loss.isfinite() | (scale <= 1))


def tell(module: Any, step: TakenStep) -> None:
    """Count a step that changed nothing and warn of it; all processes have to.

    Args:
        module: The `FitModule` that took it, whose weights are as they were in it.
        step: The step.

    Raises:
        DivergenceError: There are more of them than `max_skipped_steps`.
        ContextError: The batch was conditioned on what the model does not know.
    """
    module.skipped_steps += 1
    message = f"the step after {step.number} is not finite ({_cause(module, step.losses)})"
    if module.skipped_steps > module.max_skipped_steps:
        raise DivergenceError(
            f"{message}, and {module.skipped_steps - 1} others of this run were skipped, as many"
            f" as max_skipped_steps allows. {ADVICE}"
        )
    warnings.warn(f"{message}: skipped, {module.skipped_steps} in all", stacklevel=2)


def _cause(module: Any, losses: list[Loss]) -> str:
    """Where the first value that is not finite came from, in any process; all have to ask."""
    trainer = module.trainer
    found = [error for loss in losses if (error := _blame(module, loss)) is not None]
    rank = module.global_rank if found else trainer.world_size
    least = trainer.strategy.reduce(torch.tensor(rank, device=module.device), reduce_op="min")
    if (first := int(least)) == trainer.world_size:
        return "a gradient"
    error = trainer.strategy.broadcast(found[0] if found else None, src=first)
    if isinstance(error, ContextError):
        raise error
    return f"loss: {error}"


def _blame(module: Any, loss: Loss) -> TarflowError | None:
    """What made a loss not finite, if it is not; all processes compute it once more."""
    try:
        with module.trainer.precision_plugin.train_step_context():
            module.explain(loss)
    except (ContextError, NonFiniteError) as error:
        return None if loss.value.isfinite().all() else error
    return None
