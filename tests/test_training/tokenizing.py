"""Tiny runs of tokenizers, whose results are compared in many ways."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment

from tarflow import Pixels
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.data.loading.batches import Batch
from tarflow.flows.context import Context
from tarflow.tokenizers import (
    Autoencoder,
    Bottleneck,
    GaussianBottleneck,
    Squeeze,
    Squeezed,
    Tokenizer,
)
from tarflow.training import (
    DecoderObjective,
    LastCheckpoint,
    PretrainedExport,
    ReconstructionGrid,
    TokenizerModule,
    TokenizerObjective,
    WeightAveraging,
    adamw,
    warmup_cosine,
)
from tests.models import randomized
from tests.quiet import QUIET

KEPT = ("state_dict", "averaging", "optimizer_states", "lr_schedulers", "global_step")
LAST = 6
"""Steps of a run; an epoch has five."""


@dataclass(frozen=True)
class Signs(Bottleneck):
    """Each of two numbers becomes its sign, for four codes; an offset makes them all one."""

    offset: float = 0.0
    num_channels: int = 2
    num_codes: int | None = 4

    def module(self) -> Squeeze:
        return SignsOf(self.offset)


class SignsOf(Squeeze):
    """Signs, with gradients as of no change."""

    def __init__(self, offset: float):
        super().__init__()
        self.offset = offset

    def forward(self, hidden: Any, source: Any = None) -> Squeezed:
        signs = self.latents(hidden)
        codes = (signs[:, 0] > 0).long() + 2 * (signs[:, 1] > 0).long()
        loss = hidden.new_zeros(len(hidden))
        return Squeezed(hidden + (signs - hidden).detach(), loss, codes, {})

    def latents(self, hidden: Any) -> Any:
        return 2.0 * (hidden + self.offset > 0).to(hidden.dtype) - 1


def images(device_batch_size: int | None = None) -> ImageDataModule:
    """Forty-two images of smooth colours; eight make a batch."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(42, 3, 2, 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=8, mode="bilinear")
    stored = (255 * smooth).to(torch.uint8)
    label = torch.full((42,), -1)
    part, validation = ArrayDataset(stored, label), ArrayDataset(stored[:7], label[:7])
    shape: Any = {"num_classes": 0, "image_shape": (3, 8, 8)}
    data = ImageData("made up", part, validation, part, codec=Pixels(), **shape)
    return ImageDataModule(data, 8, None, device_batch_size)


def batch_of(count: int) -> Batch:
    """The first of them."""
    return Batch(images().data.train.images[:count], Context(), torch.arange(count))


def autoencoder(bottleneck: Bottleneck = GaussianBottleneck(), **options: Any) -> Autoencoder:
    """A tiny one of such images, with random weights."""
    return randomized(Autoencoder(8, bottleneck=bottleneck, factor=2, width=8, **options))


def module_of(tokenizer: Tokenizer, lr: float = 3e-3, **options: Any) -> TokenizerModule:
    """A module that fits a tokenizer; only its decoder, if the other weights are frozen."""
    frozen = not all(each.requires_grad for each in tokenizer.parameters())
    objective = DecoderObjective() if frozen else TokenizerObjective()
    schedule = functools.partial(warmup_cosine, total_steps=200, warmup_steps=2)
    return TokenizerModule(
        tokenizer, objective, functools.partial(adamw, lr=lr), schedule, **options
    )


class Logged(lightning.Callback):
    """Notes what is logged in each step and in each validation."""

    def __init__(self):
        self.training: list[float] = []
        self.validation: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if "train/loss" in trainer.callback_metrics:
            self.training.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.validation.append(numbers(trainer, "val/"))


def numbers(trainer: Any, prefix: str) -> dict[str, float]:
    """What was logged under a prefix."""
    found = trainer.callback_metrics.items()
    return {name: float(value) for name, value in found if name.startswith(prefix)}


def fit(
    folder: Path,
    module: TokenizerModule,
    first: int,
    last: int,
    device_batch_size: int | None = None,
    callbacks: tuple = (),
    **options: Any,
) -> dict[str, Any]:
    """Train from the checkpoint at one step to another: what was logged, and all that is left."""
    logged, path = Logged(), folder / f"{last}.ckpt"
    trainer = lightning.Trainer(
        max_steps=last,
        max_epochs=-1,
        **QUIET,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[
            WeightAveraging([0.9]),
            PretrainedExport(folder / "pretrained"),
            LastCheckpoint(path, last),
            ReconstructionGrid(folder / "grids", last, num_images=4),
            logged,
            *callbacks,
        ],
        **options,
    )
    before = folder / f"{first}.ckpt" if first else None
    trainer.fit(module, images(device_batch_size), ckpt_path=before)
    state = torch.load(path, weights_only=True)
    left = {name: state[name] for name in KEPT}
    metrics = numbers(trainer, "train/")
    return {"losses": logged.training, "validation": logged.validation, "last": metrics, **left}


def run(
    folder: Path, first: int, last: int, bottleneck: Bottleneck = GaussianBottleneck(), **how: Any
) -> dict[str, Any]:
    """Train an autoencoder, always from the same seed."""
    lightning.seed_everything(5, verbose=False)
    return fit(folder, module_of(autoencoder(bottleneck)), first, last, **how)


def together(folder: Path, bottleneck: Bottleneck) -> None:
    """Be one of two processes that share a run, and leave what it finds."""
    torch.set_num_threads(1)
    options: Any = {"strategy": "ddp", "devices": 2, "plugins": [TorchElasticEnvironment()]}
    found = run(folder, 0, LAST, bottleneck, **options)
    torch.save(found, folder / f"found_{os.environ['RANK']}.pt")
