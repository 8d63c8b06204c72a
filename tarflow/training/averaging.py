"""Weight averaging: the model that is evaluated and sampled from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.flows.flow import Flow
from tarflow.registry import register
from tarflow.training.checkpoints import callbacks_of
from tarflow.training.sharding import local, whole, whole_state


@register
class WeightAveraging(Callback):
    """Exponential moving averages of the weights, with a warm-up of the decay.

    The first average is the one that counts: validation, sample grids and the pretrained folder
    use it. Checkpoints hold the weights as they are, and all averages. Each process averages the
    part of the weights that it holds. Buffers are not averaged, which would corrupt permutations.

    Args:
        decays: Decay rates per step; while the run is young, (1 + step) / (10 + step) if that is
            less, so that the first weights are forgotten soon.
    """

    def __init__(self, decays: Sequence[float] = (0.9999,)):
        for decay in decays:
            if not 0 <= decay < 1:
                raise ConfigurationError(f"decay {decay} must be in [0, 1)")
        if not decays or len(set(decays)) < len(decays):
            raise ConfigurationError(f"decays {list(decays)} must be one or more different ones")
        self.decays = tuple(decays)
        self.num_updates = 0
        self._averages: dict[float, list[Tensor]] = {}
        self._loaded: dict[float, dict[str, Tensor]] = {}
        self._weights: list[nn.Parameter] = []
        self._step = 0

    def on_train_start(self, trainer, pl_module: Any) -> None:
        # Only now are the weights divided, and what a checkpoint holds is loaded.
        self._weights = list(pl_module.flow.parameters())  # looking for them takes 1 ms a step
        for decay in self.decays:
            average = [p.detach().clone() for p in self._weights]
            if decay in self._loaded:
                _fill(average, pl_module.flow, self._loaded[decay])
            self._averages[decay] = average
        self._loaded = {}
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module: Any, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        weights = [local(p.detach()) for p in self._weights]
        for decay, average in self._averages.items():
            rate = 0.0 if self.num_updates == 0 else min(decay, self._warm_up)
            held = [local(each) for each in average]
            torch._foreach_lerp_(held, weights, 1 - rate)  # pyright: ignore[reportPrivateImportUsage]
        self.num_updates += 1

    def on_validation_start(self, trainer, pl_module: Any) -> None:
        self._exchange(pl_module.flow, self.decays[0])

    def on_validation_end(self, trainer, pl_module: Any) -> None:
        self._exchange(pl_module.flow, self.decays[0])

    def on_save_checkpoint(self, trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        names = [name for name, _ in pl_module.flow.named_parameters()]
        averages = {
            decay: dict(zip(names, (whole(each).cpu() for each in average), strict=True))
            for decay, average in self._averages.items()
        }
        checkpoint["averaging"] = {"num_updates": self.num_updates, "averages": averages}

    def on_load_checkpoint(self, trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
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

    @contextmanager
    def applied(self, flow: Flow, decay: float) -> Iterator[None]:
        """Put an average in the place of the weights for a while."""
        self._exchange(flow, decay)
        try:
            yield
        finally:
            self._exchange(flow, decay)

    @property
    def _warm_up(self) -> float:
        """The largest decay while the run is young."""
        return (1 + self.num_updates) / (10 + self.num_updates)

    @torch.no_grad()
    def _exchange(self, flow: Flow, decay: float) -> None:
        """Let weights and an average change places."""
        for average, parameter in zip(
            self._averages.get(decay, []), flow.parameters(), strict=False
        ):
            kept = local(average).clone()
            local(average).copy_(local(parameter))
            local(parameter).copy_(kept)


def averages(
    trainer: lightning.Trainer, flow: Flow
) -> Iterator[tuple[float | None, dict[str, Tensor]]]:
    """State dicts of all averages, the one that counts first; of the weights, where none are kept.

    They hold whole tensors, on the CPU. All processes have to ask for them.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, WeightAveraging):
            for decay in callback.decays:
                with callback.applied(flow, decay):
                    state = whole_state(flow)
                yield decay, state
            return
    yield None, whole_state(flow)


@torch.no_grad()
def _fill(average: list[Tensor], flow: Flow, state: dict[str, Tensor]) -> None:
    """Copy whole tensors into an average that may be divided."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for target, (name, _) in zip(average, flow.named_parameters(), strict=True):
        value = state[name].to(target.device)
        if isinstance(target, DTensor):
            value = distribute_tensor(value, target.device_mesh, target.placements)
        target.copy_(value)
