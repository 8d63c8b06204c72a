"""Steps that are not finite: they change nothing, and nobody waits for the device to learn it."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from tarflow.errors import ContextError, NonFiniteError, TarflowError
from tarflow.training.objective import Loss


class Late:
    """Flags that a device computes now and the host looks at later.

    They travel to the host as soon as they are known. Who looks while the device is busy with what
    it was given since leaves it busy.
    """

    def __init__(self, flags: Bool[Tensor, " flags"]):
        on_gpu = flags.is_cuda
        self._flags = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=on_gpu)
        self._flags.copy_(flags, non_blocking=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(flags.device))

    @property
    def at_once(self) -> bool:
        """Whether they are there already: a CPU has computed what it was asked for."""
        return self._copied is None

    def __call__(self) -> list[bool]:
        """The flags."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._flags.numpy().tolist()


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


def cause(module: Any, losses: list[Loss]) -> str:
    """Where the first value that is not finite came from, in any process; all have to ask.

    Args:
        module: The `FitModule` whose losses they are.
        losses: Those of a step after which its weights are as they were.

    Raises:
        ContextError: The batch was conditioned on what the model does not know.
    """
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
