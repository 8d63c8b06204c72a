"""A warning of codebooks of which few codes are used."""

import warnings
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from tarflow.arguments import check_integer, check_real
from tarflow.errors import ConfigurationError
from tarflow.registry import register
from tarflow.tokenizers.code_usage import share_in_use

ENOUGH = 4
"""Positions for each code, of which all but 2 % of the codes would be used if all were likely."""


@register
class CollapseWarning(Callback):
    """Warns of a codebook that has collapsed, with what to try.

    It is told at the end of an epoch, once, and again if it happens again. Epochs with few latents
    for the number of codes tell nothing.

    Args:
        least: The share of codes in use below which a codebook has collapsed.
        after_steps: Number of steps before which nothing is said, such as those of warm-up.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(self, least: float = 0.1, after_steps: int = 0):
        self.least = float(check_real("least", least))
        if not 0 <= self.least <= 1:
            raise ConfigurationError(f"least {self.least} is a share: it must be in [0, 1]")
        self.after_steps = check_integer("after_steps", after_steps, least=0)
        self._told = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if pl_module.train_codes is None or trainer.global_step < self.after_steps:
            return
        counts = pl_module.train_codes.counts
        if counts.sum() < ENOUGH * len(counts):
            return
        share = share_in_use(counts)
        collapsed = share < self.least
        if collapsed and not self._told and trainer.is_global_zero:
            warnings.warn(
                f"the codebook has collapsed: {share:.1%} of {len(counts)} codes are"
                f" in use after {trainer.global_step} steps. Try a linear map on the codebook"
                " (model/bottleneck=linear), the rotation trick (vq_rotation, linear_rotation),"
                " finite scalar quantization (fsq), a lower commitment or a longer warm-up",
                stacklevel=2,
            )
        self._told = collapsed
