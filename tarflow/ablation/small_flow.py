"""The flow that studies of samples fit, whatever the data."""

from typing import Any

import torch

from tarflow.ablation.data_sets import whole
from tarflow.ablation.fitting import fit
from tarflow.ablation.variants import Variant
from tarflow.data import ImageData
from tarflow.flows.noise import GaussianNoise
from tarflow.flows.tar_flow import TarFlow

SIZES: dict[str, Any] = {
    **{"patch_size": 2, "num_transforms": 4, "num_layers": 2, "model_dim": 64, "head_dim": 32},
    **{"dropout": 0.1, "noise": GaussianNoise(0.1)},
}
"""Digits of 8 x 8 become sequences of 16, patches of 16 x 16 sequences of 64."""
FITTED = Variant("flow")
"""How it is fitted: optimizer, learning rate, batches."""
FITTING = ("optimizer", "lr", "max_grad_norm", "batch_size")
"""Which of its settings tell that."""


def make_flow(data: ImageData, **changes: Any) -> TarFlow:
    """A new flow of a data set; changes are of its arguments."""
    channels, height, width = data.codec.encoded_shape(data.image_shape)
    told = {"num_classes": data.num_classes, "class_names": data.class_names, "codec": data.codec}
    return TarFlow((height, width), num_channels=channels, **{**told, **SIZES, **changes})


def fit_flow(
    data: ImageData, seconds: float, seed: int, **changes: Any
) -> tuple[TarFlow, dict[str, Any]]:
    """Fit a new flow for some processor time; returns the best averaged one, and counts."""
    torch.manual_seed(seed)
    train, validation = whole(data.train), whole(data.validation)
    found = fit(make_flow(data, **changes), FITTED, train, validation, seconds)
    assert isinstance(found.average, TarFlow)
    return found.average, {"steps": found.steps, "skipped": found.skipped}


def recipe(**changes: Any) -> dict[str, Any]:
    """How it is made and fitted, as JSON gives it back."""
    sizes = {name: repr(value) for name, value in {**SIZES, **changes}.items()}
    return {**sizes, **{name: FITTED.settings[name] for name in FITTING}}
