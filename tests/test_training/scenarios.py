"""Tiny runs of training whose results are compared between one process and several.

`python -m tests.test_training.scenarios STRATEGY FILE` is one of several processes.
"""

import functools
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from torch import Tensor

from tarflow import (
    AdaptiveNorm,
    NoNoise,
    Pixels,
    TarFlow,
    TarflowError,
    UniformDequantization,
    UnitScale,
)
from tarflow.data import ArrayDataset, ImageData, ImageDataModule
from tarflow.training import (
    FlowModule,
    LastCheckpoint,
    MaximumLikelihood,
    Preemption,
    ShardedStrategy,
    WeightAveraging,
    adamw,
    muon,
    warmup_cosine,
)
from tarflow.training.averaging import averages
from tarflow.training.sharding import whole_state
from tarflow.training.steps import StepCallback
from tests.quiet import QUIET

Options = dict[str, Any]
STRATEGIES: dict[str, Callable[[], Any]] = {"ddp": lambda: "ddp", "fsdp2": ShardedStrategy}


def images(label: Tensor) -> ImageDataModule:
    """Twenty-four images, whose brightness follows their class; eight make a batch.

    Those of validation make no whole number of batches.
    """
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 4, (24, 1, 4, 4), generator=generator)
    stored = (5 * (label[:, None, None, None] % 3) + pixels).to(torch.uint8)
    part, validation = ArrayDataset(stored, label), ArrayDataset(stored[:19], label[:19])
    made = ImageData(
        "made up", part, validation, part, codec=Pixels(17), num_classes=3, image_shape=(1, 4, 4)
    )
    return ImageDataModule(made, batch_size=8)


class Watch(StepCallback):
    """Notes what is logged in each step, and in the validation after it."""

    def __init__(self):
        self.losses: dict[int, float] = {}
        self.validation: dict[int, float] = {}
        self.variances: list[Tensor] = []

    def after_step(self, trainer: Any, module: Any) -> None:
        self.losses[trainer.global_step] = float(trainer.callback_metrics["train/nats_per_dim"])
        self.variances.append(
            module.flow.state_dict().get("base.variance", torch.ones(())).clone()
        )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self.validation[trainer.global_step] = float(trainer.callback_metrics["val/nats_per_dim"])


class Within(lightning.Callback):
    """Notes the dtypes of the weights of a layer while it computes."""

    def __init__(self):
        self.seen: set[str] = set()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        def look(module: Any, *_: Any) -> None:
            for name, weight in module.named_parameters():
                self.seen.add(f"{name} {weight.dtype}")

        pl_module.flow.transform[1].network.blocks[0].mlp_norm.register_forward_hook(look)
        pl_module.flow.transform[1].network.blocks[0].mlp[0].register_forward_hook(look)


class Told(lightning.Callback):
    """Sends SIGTERM to the last process before the third step."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2 and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Broken(lightning.Callback):
    """Fails before the third step, in every process."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            raise LookupError("a callback of somebody's")


class Overflow(lightning.Callback):
    """Makes a transform's output of the first image of a batch infinite in one step.

    Or else its gradient.
    """

    def __init__(self, step: int, forward: bool = True):
        self.step, self.forward = step, forward

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        def spoil(module: Any, inputs: Any, output: Any) -> Any:
            z, log_det = output
            if trainer.global_step == self.step and trainer.is_global_zero and trainer.training:
                spoilt = torch.where(torch.arange(len(z)) == 0, torch.inf, 1.0)[:, None, None]
                if self.forward:
                    z = z * spoilt
                elif z.requires_grad:
                    z.register_hook(lambda gradient: gradient * spoilt)
            return z, log_det

        pl_module.flow.transform[3].register_forward_hook(spoil)


def train(
    folder: Path,
    options: Options,
    *extra: lightning.Callback,
    steps: int = 4,
    after: Path | None = None,
    optimizer: Callable[..., Any] = adamw,
    label: Tensor = torch.arange(24) % 3,
    parts: int = 1,
    layers: int = 1,
    recomputed: int = 0,
    **flow: Any,
) -> dict[str, Any]:
    """Train a flow; returns all that is left of it, with whole tensors."""
    lightning.seed_everything(3, verbose=False)
    known = {"num_classes": 3, "codec": UniformDequantization(17), "noise": NoNoise()}
    made = TarFlow(4, 2, 1, 2, layers, 16, 8, **known, **flow)
    schedule = functools.partial(warmup_cosine, total_steps=50, warmup_steps=2)
    how = (functools.partial(optimizer, lr=3e-3), schedule, MaximumLikelihood())
    module = FlowModule(made, *how, checkpointed_layers=recomputed)
    watch, data = Watch(), images(label)
    last = LastCheckpoint(folder / f"{steps}.ckpt", steps)
    data.device_batch_size = 8 // (parts * options.get("devices", 1))
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        **QUIET,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        val_check_interval=parts,
        callbacks=[*extra, WeightAveraging([0.5, 0.9]), last, watch],
        **{"num_sanity_val_steps": 0, **options},
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data, ckpt_path=after)
    return {
        "losses": watch.losses,
        "validation": watch.validation,
        "weights": whole_state(made.state_dict(), trainer.is_global_zero),
        "averages": dict(averages(trainer, made)),
        "variances": watch.variances,
        "skipped": module.skipped_steps,
        "said": [str(each.message) for each in caught if "not finite" in str(each.message)],
    }


def refused(run: Callable[[], Any]) -> str:
    """What a run that must fail says."""
    try:
        run()
    except TarflowError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def everything(folder: Path, options: Callable[[], Options], parts: int = 1) -> dict[str, Any]:
    """All scenarios; the volume-preserving flow takes its batches in parts."""
    go = functools.partial(train, folder)
    results = {"validation": go(options(), optimizer=muon)}
    go(options() | {"num_sanity_val_steps": 1}, steps=2, optimizer=muon)
    results["resumed"] = go(options(), after=folder / "2.ckpt", optimizer=muon)
    results["overflow"] = go(options(), Overflow(2))
    results["gradient"] = go(options(), Overflow(2, forward=False))
    results["volume"] = go(options(), Overflow(2), parts=parts, scale=UnitScale())
    results["tied"] = go(options(), networks=(0, 0))
    results["adaptive"] = go(options(), layer=AdaptiveNorm())
    within, half = Within(), {"precision": "bf16-mixed"}
    results["bfloat16"] = go(options() | half, within, layers=2, recomputed=1)
    results["within"] = sorted(within.seen)
    for seconds in (0.0, 1000.0):
        preemption = Preemption(["SIGTERM"], seconds)
        told = go(options(), preemption, Told())
        assert preemption.received == signal.SIGTERM
        results[f"told_{seconds:.0f}"] = max(told["losses"])
    stray = torch.arange(24) % 3
    stray[1] = 5  # which one process alone reads
    results["context"] = refused(lambda: go(options() | {"limit_val_batches": 0}, label=stray))
    with suppress(LookupError):
        go(options(), Broken(), steps=5)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # until the first process has written
    results["broken"] = (folder / "5.ckpt").exists()
    if results["broken"]:
        results["after_broken"] = go(options(), steps=4, after=folder / "5.ckpt")["losses"]
    return results


def several(strategy: str) -> Options:
    """What a trainer is told where processes share its work."""
    made = STRATEGIES[strategy]()
    return {"strategy": made, "devices": 2, "plugins": [TorchElasticEnvironment()]}


def shared(file: Path) -> None:
    """Be one of the processes that share the scenarios, and leave in a file what they find."""
    torch.set_num_threads(1)
    found = {}
    for strategy in STRATEGIES:
        folder = file.parent / strategy
        folder.mkdir(exist_ok=True)
        found[strategy] = everything(folder, functools.partial(several, strategy), parts=2)
    torch.save(found, file)
