"""Weight averaging: the model that is evaluated and sampled from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.flows.pretrained import Pretrained
from tarflow.registry import register
from tarflow.training.late import Late
from tarflow.training.sharding import fill, local, whole_state
from tarflow.training.steps import StepCallback, callbacks_of


@register
class WeightAveraging(StepCallback):
    """Exponential moving averages of the weights, with a warm-up of the decay.

    The first average is the one that counts: validation, sample grids and the pretrained folder
    use it. Checkpoints hold the weights as they are, and all averages. Each process averages the
    part of the weights that it holds. Buffers are not averaged, which would corrupt permutations.

    Weights are averaged before the next step changes them, or when the average is asked for: by
    then it is known whether the last step was finite. One that was not leaves averages alone.

    Args:
        decays: Decay rates per step; while the run is young, (1 + step) / (10 + step) if that is
            less, so that the first weights are forgotten soon.

    Attributes:
        num_updates: Number of steps that were averaged.
    """

    def __init__(self, decays: Sequence[float] = (0.9999,)):
        for decay in decays:
            if not 0 <= decay < 1:
                raise ConfigurationError(f"decay {decay} must be in [0, 1)")
        if not decays or len(set(decays)) < len(decays):
            raise ConfigurationError(f"decays {list(decays)} must be one or more different ones")
        self.decays = tuple(decays)
        self.num_updates = 0
        self._averages: dict[float, dict[str, Tensor]] = {}
        self._loaded: dict[float, dict[str, Tensor]] = {}
        self._weights: list[nn.Parameter] = []
        self._exchanged = False
        self._finite: Late | None = None  # of the last step, where that is not averaged yet

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        # Only now are the weights divided, and what a checkpoint holds is loaded.
        named = {n: p for n, p in pl_module.model.named_parameters() if p.requires_grad}
        self._weights = list(named.values())  # looking for them takes 1 ms a step
        for decay in self.decays:
            self._averages[decay] = {name: p.detach().clone() for name, p in named.items()}
        for decay, state in self._loaded.items():
            for name, average in self._averages.get(decay, {}).items():
                fill(average, state[name])
        self._loaded, self._finite = {}, None

    def after_step(self, trainer: Trainer, module: Any) -> None:
        self._finite = module.finite

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.settle()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Average the weights after the last step, unless that is done or nothing changed."""
        finite, self._finite = self._finite, None
        if finite is None or not finite()[0]:
            return
        weights = [local(each) for each in self._weights]
        warm_up = (1 + self.num_updates) / (10 + self.num_updates)
        for decay, average in self._averages.items():
            rate = 0.0 if self.num_updates == 0 else min(decay, warm_up)
            held = [local(each) for each in average.values()]
            torch._foreach_lerp_(held, weights, 1 - rate)  # pyright: ignore[reportPrivateImportUsage]
        self.num_updates += 1

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._exchange(self.decays[0])

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.restore()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the weights back in their place, where validation left the average in it."""
        if self._exchanged:
            self._exchange(self.decays[0])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict) -> None:
        self.settle()
        leads = trainer.is_global_zero
        averages = {decay: self.whole(decay, leads) for decay in self._averages}
        checkpoint["averaging"] = {"num_updates": self.num_updates, "averages": averages}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict) -> None:
        if "averaging" not in checkpoint:
            raise CheckpointError("the checkpoint holds no averages of the weights")
        self.num_updates = checkpoint["averaging"]["num_updates"]
        self._loaded = checkpoint["averaging"]["averages"]
        missing = sorted(set(self.decays) - self._loaded.keys())
        if missing:
            raise CheckpointError(
                f"the checkpoint has averages of decay {sorted(self._loaded)}, and none of"
                f" {missing}: averages begin with a run, so go back to its decays"
            )

    def whole(self, decay: float, leads: bool) -> dict[str, Tensor]:
        """An average as whole tensors, on the CPU, where this process leads; else empty.

        Before training starts, it is empty everywhere.
        """
        self.settle()
        return whole_state(self._averages.get(decay, {}), leads)

    @torch.no_grad()
    def _exchange(self, decay: float) -> None:
        """Let weights and an average change places; nothing before training starts."""
        self.settle()
        averages = self._averages.get(decay, {}).values()
        self._exchanged = not self._exchanged
        for average, parameter in zip(averages, self._weights, strict=True):
            kept = local(average).clone()
            local(average).copy_(local(parameter))
            local(parameter).copy_(kept)


def averages(
    trainer: Trainer, model: nn.Module
) -> Iterator[tuple[float | None, dict[str, Tensor]]]:
    """State dicts of all averages, the one that counts first; of the weights, where none are kept.

    They hold whole tensors, on the CPU of the first process. All have to ask for them, and others
    get empty ones.
    """
    leads = trainer.is_global_zero
    state = whole_state(model.state_dict(), leads)
    for callback in callbacks_of(trainer):
        if isinstance(callback, WeightAveraging):
            for decay in callback.decays:
                yield decay, state | callback.whole(decay, leads)
            return
    yield None, state


def with_weights(trained: Pretrained, weights: Mapping[str, Tensor], device: torch.device) -> Any:
    """Another model as the one that is trained, with whole weights, in eval mode.

    Parts of it can be called, which the training may have divided between processes in that one.
    """
    with torch.device("meta"):  # no time for numbers that are replaced
        model = trained.remade().to_empty(device=device).eval()
    known = dict(trained.named_buffers())
    for name, buffer in model.named_buffers():
        if name not in weights:
            buffer.copy_(known[name])
    model.load_state_dict(weights)
    return model
