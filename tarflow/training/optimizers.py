"""Optimizers and learning-rate schedules."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tarflow.arguments import check_real
from tarflow.errors import ConfigurationError
from tarflow.registry import register
from tarflow.training.sharding import divided, local, whole

PIECE = 2**26
"""Largest number of entries of matrices that Muon orthogonalizes at once, if there are several."""

aten = torch.ops.aten
"""torch's operators by their full names: by the short ones, some would read a number back."""

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@register
def adamw(
    named_parameters: NamedParameters,
    lr: float = 1e-4,
    betas: Sequence[float] = (0.9, 0.95),
    weight_decay: float = 1e-4,
) -> AdamW:
    """AdamW that decays matrices alone; norms, biases and embeddings are left to the data.

    Args:
        named_parameters: Those of the model.
        lr: Peak learning rate.
        betas: Decay rates of the two moments.
        weight_decay: Decoupled decay of the weight matrices.
    """
    hidden, others, free = _sort(named_parameters)
    groups = [{"params": hidden + others}, {"params": free, "weight_decay": 0.0}]
    return AdamW(groups, **_settings(lr, betas, weight_decay), fused=True)


@register
def muon(
    named_parameters: NamedParameters,
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.95),
    weight_decay: float = 1e-4,
    momentum: float = 0.95,
) -> "MuonAdamW":
    """Muon for the hidden matrices, `adamw` for the rest, at one learning rate.

    Args:
        named_parameters: As for `adamw`, and so are `lr`, `betas` and `weight_decay`.
        momentum: Decay rate of Muon's average of gradients.
    """
    hidden, others, free = _sort(named_parameters)
    momentum = check_real("momentum", momentum)
    matrices = [{"params": hidden, "momentum": momentum}, {"params": others}]
    groups = [*matrices, {"params": free, "weight_decay": 0.0}]
    return MuonAdamW(groups, **_settings(lr, betas, weight_decay))


def _settings(lr: float, betas: Sequence[float], weight_decay: float) -> dict[str, Any]:
    """Those of AdamW as plain numbers, which checkpoints keep."""
    first, second = (check_real("one of betas,", beta) for beta in betas)
    numbers = {"lr": lr, "weight_decay": weight_decay}
    return {"betas": (first, second), **{k: check_real(k, each) for k, each in numbers.items()}}


@register
class MuonAdamW(AdamW):
    """AdamW that moves the groups with a `momentum` along orthogonalized gradients instead.

    torch's own Muon is a second optimizer, which Lightning drives by hand only, and it multiplies
    in bfloat16, which a CPU without such instructions does a hundred times slower than in float32.
    Updates are scaled to the root mean square of AdamW's, so that one learning rate and weight
    decay serve both (Muon: Jordan et al. 2024; the scale: arXiv 2502.16982).
    """

    def __init__(self, params: Any, **defaults: Any):
        super().__init__(params, fused=True, **defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        found = getattr(self, "found_inf", None)  # on the device: the step is to change nothing
        skips = None if found is None else found > 0
        for group in self.param_groups:
            if "momentum" in group:
                self._orthogonal_step(group, skips)
        super().step()
        return loss

    def _orthogonal_step(self, group: dict, skips: Tensor | None) -> None:
        """Move a group's matrices, and take their gradients away from AdamW."""
        same_shape = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                same_shape[parameter.shape].append(parameter)
        for shape, parameters in same_shape.items():
            count = max(1, PIECE // math.prod(shape))
            for first in range(0, len(parameters), count):
                self._move(parameters[first : first + count], group, skips)

    def _move(self, parameters: list[nn.Parameter], group: dict, skips: Tensor | None) -> None:
        """Move some matrices of one shape; where they are divided, all processes compute whole."""
        directions = self._directions(parameters, group["momentum"], skips)
        steps = orthogonalize(torch.stack([whole(each) for each in directions]))
        weights = [local(parameter) for parameter in parameters]
        kept = weights[0].new_full((), 1 - group["lr"] * group["weight_decay"])
        if skips is not None:
            steps = steps.masked_fill(skips, 0)
            kept.masked_fill_(skips, 1)
        rate = 0.2 * group["lr"] * math.sqrt(max(steps.shape[1:]))
        moves = [local(divided(step, p)) for step, p in zip(steps, parameters, strict=True)]
        aten._foreach_mul_.Tensor(weights, kept)
        aten._foreach_add_.List(weights, moves, alpha=-rate)
        for parameter in parameters:
            parameter.grad = None

    def _directions(
        self, parameters: list[nn.Parameter], momentum: float, skips: Tensor | None
    ) -> list[Tensor]:
        """The gradients, with Nesterov momentum from now on."""
        whole_gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        states = [self.state[parameter] for parameter in parameters]
        for state, gradient in zip(states, whole_gradients, strict=True):
            if not state:
                # AdamW looks for a count, on the device, when it is loaded.
                state["step"] = local(gradient).new_zeros((), dtype=torch.float32)
                state["average"] = torch.zeros_like(gradient)
        gradients = [local(each) for each in whole_gradients]
        averages = [local(state["average"]) for state in states]
        counted = states[0]["step"].new_ones(())
        if skips is not None:
            counted.masked_fill_(skips, 0)
            for gradient, average in zip(gradients, averages, strict=True):
                torch.where(skips, average, gradient, out=gradient)  # which moves no average
        aten._foreach_add_.List([state["step"] for state in states], [counted] * len(states))
        aten._foreach_lerp_.Scalar(averages, gradients, 1 - momentum)
        aten._foreach_lerp_.Scalar(gradients, averages, momentum)
        return whole_gradients


def orthogonalize(matrices: Float[Tensor, "matrices rows columns"]) -> Tensor:
    """Bring all singular values near 1 by five Newton-Schulz steps, keeping singular vectors."""
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    is_wide = x.shape[1] <= x.shape[2]
    wide = x if is_wide else x.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        wide = torch.baddbmm(wide, polynomial, wide, beta=3.4445)
    return wide if is_wide else wide.mT


def _sort(named_parameters: NamedParameters) -> tuple[list, list, list]:
    """Split parameters into hidden matrices, other matrices, and norms, biases and embeddings."""
    hidden, others, free = [], [], []
    for name, parameter in named_parameters:
        if parameter.ndim < 2 or "embedding" in name:
            free.append(parameter)
        else:
            is_hidden = "blocks." in name and parameter.ndim == 2  # those of convolutions are not
            (hidden if is_hidden else others).append(parameter)
    return hidden, others, free


@register
def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_steps: int, final_lr: float = 1e-6
) -> LambdaLR:
    """Linear warm-up from `final_lr` to the optimizer's rates, then a cosine decay to `final_lr`.

    Raises:
        ConfigurationError: The warm-up is not shorter than the run, or a rate is negative.
    """
    if not 0 <= warmup_steps < total_steps:
        allowed = f"[0, total_steps={total_steps})"
        raise ConfigurationError(f"warmup_steps {warmup_steps} must be in {allowed}")
    final_lr = check_real("final_lr", final_lr)
    if not 0 <= final_lr < math.inf:
        raise ConfigurationError(f"final_lr {final_lr} must be finite and not negative")
    peak = optimizer.param_groups[0]["lr"]

    def factor(step: int) -> float:
        if step < warmup_steps:
            share = step / warmup_steps
        else:
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            share = 0.5 * (1 + math.cos(math.pi * progress))
        return share + (1 - share) * final_lr / peak

    return LambdaLR(optimizer, factor)
