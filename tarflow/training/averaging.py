"""Weight averaging: the model that is evaluated and sampled from."""

from typing import cast

import lightning
import torch
from lightning.pytorch import callbacks
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tarflow.errors import ConfigurationError
from tarflow.training.module import FlowModule


class WeightAveraging(callbacks.WeightAveraging):
    """Exponential moving average of the weights, with a warm-up of the decay.

    Validation, sample grids and pretrained folders use the average; checkpoints hold both.

    Args:
        decay: Decay rate per step; while the run is young, (1 + step) / (10 + step) if that is
            less, so that the first weights are forgotten soon.
    """

    def __init__(self, decay: float = 0.9999):
        if not 0 <= decay < 1:
            raise ConfigurationError(f"decay {decay} must be in [0, 1)")
        self.decay = decay
        # Averaging integer buffers would corrupt permutations.
        super().__init__(use_buffers=False, multi_avg_fn=self._update)

    def average(self, module: FlowModule) -> FlowModule:
        """The averaged model; before training, the model itself."""
        if self._average_model is None:
            return module
        return cast(FlowModule, self._average_model.module)

    @torch.no_grad()
    def _update(self, averaged: list, current: list, num_averaged) -> None:
        """Move the averages towards the weights."""
        step = int(num_averaged)
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(averaged, current, step)


def averaged_module(trainer: lightning.Trainer, module: lightning.LightningModule) -> FlowModule:
    """The averaged model where a run averages, else the model itself."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, WeightAveraging):
            return callback.average(cast(FlowModule, module))
    return cast(FlowModule, module)
