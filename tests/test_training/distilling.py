"""Tiny runs of distillation by every method, whose results are compared in many ways."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment

from tarflow import (
    Flow,
    GaussianNoise,
    InverseStudent,
    Pixels,
    ShortcutStudent,
    Student,
    VelocityStudent,
)
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.training import (
    ClassifierFeatures,
    DistributionMatching,
    FlowCoupling,
    FlowMatching,
    InverseRegression,
    LastCheckpoint,
    PretrainedExport,
    PriorPairs,
    ScoreIdentity,
    SecondNetwork,
    Shortcut,
    StudentGrid,
    StudentModule,
    StudentObjective,
    UniformWeights,
    WeightAveraging,
    muon,
    warmup_cosine,
)
from tests.models import tiny_flow
from tests.quiet import QUIET

SIZES: dict[str, Any] = {"num_layers": 1, "model_dim": 16, "head_dim": 8}
GUIDED: Any = {"weights": UniformWeights(2.0), "class_dropout": 0.3}
SECOND = SecondNetwork(1, 16, 8)

Made = tuple[Student, StudentObjective]


def inverse(flow: Flow, dropout: float = 0.0) -> Made:
    """The learned inverse with all that it may have."""
    student = InverseStudent.of(flow, dropout=dropout, **SIZES)
    distance = ClassifierFeatures(width=2, steps=2, batch_size=4)
    pairs = PriorPairs(8, 0.5, every=2, renewed=3)
    return student, InverseRegression(
        student, flow, distance=distance, jitter=0.1, pairs=pairs, **GUIDED
    )


def flow_matching(flow: Flow, dropout: float = 0.0) -> Made:
    """Flow matching on a coupling whose scale is fixed within the run."""
    student = VelocityStudent.of(flow, dropout=dropout, **SIZES)
    return student, FlowMatching(student, flow, coupling=FlowCoupling(3), **GUIDED)


def shortcut(flow: Flow, dropout: float = 0.0) -> Made:
    """A shortcut student."""
    student = ShortcutStudent.of(flow, dropout=dropout, **SIZES)
    return student, Shortcut(student, flow, most_steps=4, decay=0.5, **GUIDED)


def score(flow: Flow, dropout: float = 0.0) -> Made:
    """Distribution matching of a student of one pass."""
    student = InverseStudent.of(flow, dropout=dropout, **SIZES)
    return student, DistributionMatching(student, flow, second=SECOND, second_steps=1, **GUIDED)


def score_identity(flow: Flow, dropout: float = 0.0) -> Made:
    """Score identity beside flow matching, of a student of one pass and two."""
    student = VelocityStudent.of(flow, dropout=dropout, **SIZES)
    beside: Any = FlowMatching
    options: Any = {"second": SECOND, "second_steps": 1, "steps": [1, 2], "alongside": beside}
    return student, ScoreIdentity(student, flow, **options, **GUIDED)


METHODS: dict[str, Callable[..., Made]] = {
    each.__name__: each for each in (inverse, flow_matching, shortcut, score, score_identity)
}


def images(device_batch_size: int | None = None) -> ImageDataModule:
    """Twenty images, whose brightness follows their class; eight make a batch."""
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(20) % 3
    pixels = torch.randint(0, 4, (20, 1, 4, 4), generator=generator)
    stored = (5 * label[:, None, None, None] + pixels).to(torch.uint8)
    part, validation = ArrayDataset(stored, label), ArrayDataset(stored[:5], label[:5])
    shape: Any = {"num_classes": 3, "image_shape": (1, 4, 4)}
    data = ImageData("made up", part, validation, part, codec=Pixels(17), **shape)
    return ImageDataModule(data, 8, None, device_batch_size)


def teacher() -> Flow:
    """A flow of such images."""
    known: Any = {"num_classes": 3, "codec": Pixels(17), "noise": GaussianNoise(0.1)}
    return tiny_flow(4, 2, 1, num_layers=1, **known).eval()


class Losses(lightning.Callback):
    """Notes what is logged in each step, and of validation."""

    def __init__(self):
        self.training: list[float] = []
        self.validation: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if "train/loss" in trainer.callback_metrics:  # else it is one part of the first step
            self.training.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.validation.append(float(trainer.callback_metrics["val/loss"]))


def distill(
    folder: Path,
    method: str,
    first: int,
    last: int,
    dropout: float = 0.0,
    device_batch_size: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train from the checkpoint at one step to another: losses, and all that is left."""
    lightning.seed_everything(5, verbose=False)
    data = images(device_batch_size)
    student, objective = METHODS[method](teacher(), dropout)
    objective.prepare(data.data)
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    module = StudentModule(student, objective, functools.partial(muon, lr=3e-3), schedule)
    losses, path = Losses(), folder / f"{method}_{last}.ckpt"
    trainer = lightning.Trainer(
        max_steps=last,
        max_epochs=-1,
        **QUIET,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        val_check_interval=2 * (8 // (device_batch_size or 8)),
        num_sanity_val_steps=0,
        callbacks=[
            WeightAveraging([0.9]),
            PretrainedExport(folder / method),
            LastCheckpoint(path, last),
            StudentGrid(folder / f"{method}_grids", last, num_samples=3, weight=1.0),
            losses,
        ],
        **options,
    )
    before = folder / f"{method}_{first}.ckpt" if first else None
    trainer.fit(module, data, ckpt_path=before)
    state = torch.load(path, weights_only=True)
    left = {name: state[name] for name in KEPT}
    return {"losses": losses.training, "validation": losses.validation, **left}


KEPT = ("state_dict", "averaging", "optimizer_states", "lr_schedulers", "global_step")


def together(folder: Path) -> None:
    """Be one of two processes that share the runs of all methods, and leave what they find."""
    torch.set_num_threads(1)
    options: Any = {"strategy": "ddp", "devices": 2, "plugins": [TorchElasticEnvironment()]}
    found = {method: distill(folder, method, 0, LAST, **options) for method in METHODS}
    torch.save(found, folder / f"found_{os.environ['RANK']}.pt")


LAST = 6
"""Steps of a run."""
