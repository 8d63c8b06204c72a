"""A Lightning module that fits a model: optimization, whatever the model and the objective."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tarflow.arguments import check_integer, check_real
from tarflow.data.loading.batches import UNREADABLE, Batch
from tarflow.data.loading.shares import BatchShares
from tarflow.errors import ConfigurationError, TarflowError
from tarflow.nn.kernels import AttentionKernel, AutoAttention
from tarflow.randomness import ExampleSeeds, Share, stream_seed
from tarflow.training.acceleration import (
    compile_blocks,
    compiling,
    multiplied_in,
    recompute,
    use_attention,
)
from tarflow.training.accumulation import rescale
from tarflow.training.late import Late
from tarflow.training.objective import Loss
from tarflow.training.precision import (
    check_precision,
    check_products,
    check_weights_wide,
    multiplying,
    unscale,
)
from tarflow.training.sharding import shard, whole
from tarflow.training.skipping import TakenStep, counts_as_skipped, skip_unless, tell

WHOLE = (
    "weights of this kind of model are not divided between processes: every process has them whole"
    " with trainer=ddp"
)
"""Why some models have no sharded training."""


class FitModule(lightning.LightningModule, ABC):
    """Fits a model; batches are `Batch(x, context, index)` with x as it is stored.

    All that is random in a step follows from the seed of torch when this is built and from the
    number of batches before it, so that a resumed run repeats what it would have done. Noise and
    dropped labels belong to the row of the batch, so that any number of processes draws the same.

    A step whose loss or gradient is not finite in any process changes nothing in all of them. The
    host does not wait to learn it: on a GPU it hears of such a step during the next one.

    Args:
        optimizer: Makes the optimizer from the named parameters of what is learned.
        schedule: Makes the learning-rate schedule, stepped every batch.
        objective: Maps the model, a batch and a source of draws to a `Loss`, as `Objective` does.
        max_grad_norm: Largest norm of all gradients together; larger ones are scaled down to it.
        max_skipped_steps: Number of steps of a run that may be skipped; one more stops it.
        attention: Computes attention in causal transformers.
        compile: Whether layers of transformers run compiled, after some minutes at the start.
        checkpointed_layers: Number of layers of each transformer whose inside is computed again
            for gradients instead of kept.
        products: What products of float32 matrices are computed in, in training steps: `exact`,
            `tf32` on GPUs, or `bf16` on CPUs.

    Attributes:
        skipped_steps: Number of steps that changed nothing, as far as the host has heard.
        finite: Whether the last step was finite.
    """

    finite: Late

    def __init__(
        self,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
        objective: Any,
        max_grad_norm: float = 1.0,
        max_skipped_steps: int = 20,
        attention: AttentionKernel = AutoAttention(),
        compile: bool = False,
        checkpointed_layers: int = 0,
        products: str = "exact",
    ):
        super().__init__()
        max_grad_norm = check_real("max_grad_norm", max_grad_norm)
        if not max_grad_norm > 0:
            raise ConfigurationError(f"max_grad_norm {max_grad_norm} must be positive")
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.objective = objective
        self.max_grad_norm = max_grad_norm
        self.max_skipped_steps = check_integer("max_skipped_steps", max_skipped_steps, least=0)
        self.attention = attention
        self.compiled = compile
        self.checkpointed_layers = checkpointed_layers
        self.products = products
        self.seed = torch.initial_seed()
        self.skipped_steps = 0
        self._learned: list[nn.Parameter] = []
        self._losses: list[Loss] = []
        self._unheard: list[TakenStep] = []
        self._clipped: Tensor | int = 0  # number of them, of those since the last that was logged
        self._unlogged = 0

    @property
    @abstractmethod
    def model(self) -> Any:
        """The model, which is averaged, written and drawn from."""

    @property
    def learned(self) -> nn.Module:
        """What the optimizer moves: the model, and whatever an objective learns beside it."""
        return self.model

    @property
    def loss_name(self) -> str:
        """What the loss per dimension is called in logs, after `train/` and `val/`."""
        return self.objective.name

    @property
    def dtype_of_weights(self) -> torch.dtype:
        """The precision of the model's weights."""
        return self.model.base.anchor.dtype

    @property
    def operations(self) -> int | None:
        """Operations of a training step for each example of its batch; None if nobody counts."""
        return None

    @property
    def length(self) -> int | None:
        """Number of positions of an example, where the model reads it as a sequence."""
        return None

    def exported(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict as it is written to a pretrained folder; the first process asks for it."""
        return weights

    def explain(self, loss: Loss) -> None:
        """Compute a loss that is not finite again, and raise an error that tells where from.

        All processes call this. Nothing is raised where nothing is to blame.
        """

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout is the same after a resume as without one, and another one in every process.
        torch.manual_seed(stream_seed(self.seed, f"batch/{self.global_rank}", self._number))

    def configure_model(self) -> None:
        """Choose how to compute, and divide the weights where the strategy wants that."""
        check_precision(str(self.trainer.precision), sharded=self._device_mesh is not None)
        check_products(self.products, self.trainer.strategy.root_device)
        check_weights_wide(self.learned)
        dtype = multiplied_in(str(self.trainer.precision), self.dtype_of_weights)
        use_attention(self.learned, self.attention, self.trainer.strategy.root_device, dtype)
        recompute(self.learned, self.checkpointed_layers)
        if self.compiled:
            compile_blocks(self.learned)
        shard(self.learned, self._device_mesh, dtype)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        named = list(self.learned.named_parameters())
        self._learned = [parameter for _, parameter in named]  # looking for them takes 1 ms a step
        try:
            optimizer = self.make_optimizer((n, p) for n, p in named if p.requires_grad)
        except TarflowError:
            raise
        except (ValueError, TypeError, LookupError) as error:  # torch's, of their arguments
            given = getattr(self.make_optimizer, "keywords", {})
            raise ConfigurationError(f"no optimizer can be made of {given}: {error}") from error
        schedule: Any = {"scheduler": self.make_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with self._computing():
            loss = self.objective(self.model, batch, self._share(len(batch.index)))
        self._losses.append(loss.detached())
        return self._reduced(loss.minimized)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with self._computing():
            super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        # Each example has the same noise every time: the curve shows the model and not the draw.
        source = ExampleSeeds(0, batch.index.clamp(min=0).tolist())
        for name, values in self.validated(batch, source).items():
            self._log_mean(f"val/{name}", values, batch.index >= 0)
        self._log_count("val/unreadable", batch.index == UNREADABLE)

    def validated(self, batch: Batch, source: ExampleSeeds) -> Mapping[str, Tensor]:
        """What is logged of every example of the validation part, by name; NaN is left out."""
        return self.objective.validate(self.model, batch, source)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        scaler = unscale(self.trainer.precision_plugin, optimizer)
        norm = whole(nn.utils.clip_grad_norm_(self._learned, self.max_grad_norm))
        losses, self._losses = self._losses, []
        # Both are the same in all processes, and so is what follows from them.
        loss = self._mean(torch.stack([self._reduced(part.value) for part in losses]).mean())
        finite = loss.isfinite() & norm.isfinite()
        skip_unless(finite, optimizer, scaler)
        self.on_step(losses, finite)
        self.finite = Late(torch.stack([finite, counts_as_skipped(finite, loss, scaler)]))
        self._unheard.append(TakenStep(self.global_step, losses, self.finite))
        self._clipped = self._clipped + (norm > self.max_grad_norm)
        self._unlogged += 1
        self._hear(0 if self._logs or self.finite.at_once else 1)
        self._log_step(losses, loss, norm)

    def on_step(self, losses: list[Loss], finite: Tensor) -> None:
        """Act before an update of the weights: change nothing unless the flag `finite` is set."""

    def on_train_end(self) -> None:
        self._hear(0)
        for optimizer in self.trainer.optimizers:  # its next step, by hand, is not to be skipped
            vars(optimizer).pop("found_inf", None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        unheard = sum(step.flags()[1] for step in self._unheard)
        checkpoint["skipped_steps"] = self.skipped_steps + unheard

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_steps = checkpoint["skipped_steps"]
        rescale(checkpoint, self.trainer.accumulate_grad_batches)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """In which a training step computes losses and gradients."""
        with multiplying(self.products), compiling() if self.compiled else nullcontext():
            yield

    @property
    def _logs(self) -> bool:
        """Whether this step is logged, for which the host waits."""
        return self.trainer._logger_connector.should_update_logs

    @property
    def _number(self) -> int:
        """Number of batches, or of parts of them, that this process has read before."""
        return self.trainer.fit_loop.epoch_loop.total_batch_idx

    def _share(self, rows: int) -> Share:
        """Which of a batch's draws are those of the rows at hand."""
        trainer = self.trainer
        parts, world_size = trainer.accumulate_grad_batches, trainer.world_size
        shares = BatchShares(rows * world_size * parts, trainer.global_rank, world_size, parts)
        return shares.source(self.seed, self._number)

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        return cast(Tensor, self.trainer.strategy.reduce(value, reduce_op="mean"))

    def _log_mean(self, name: str, values: Tensor, counted: Tensor) -> None:
        """Log the mean of what counts and is finite, over all batches and processes."""
        finite = values[counted & values.isfinite()]
        mean = finite.sum() / max(len(finite), 1)
        # Lightning divides the weights of all by the number of processes, and rounds down.
        weight = len(finite) * self.trainer.world_size
        self.log(name, mean, prog_bar=True, batch_size=weight, sync_dist=True)
        self._log_count(f"{name}_non_finite", counted & ~values.isfinite())

    def _log_count(self, name: str, marked: Tensor) -> None:
        """Log how many examples are marked, over all batches and processes, if any is."""
        count = marked.sum().float()
        if self._mean(count.clone()) > 0:  # all processes log it, or none: each waits for all
            self.log(name, count, reduce_fx="sum", sync_dist=True)

    def _reduced(self, values: Tensor) -> Tensor:
        """The mean of a loss over examples and dimensions."""
        return values.mean() / self.model.num_dims

    def _log_step(self, losses: list[Loss], loss: Tensor, norm: Tensor) -> None:
        """Log a step; where nobody would see a number, Lightning still takes a millisecond."""
        # Not for the bar of progress: Lightning would read the number at once, in every step.
        self.log(f"train/{self.loss_name}", loss)
        if self._logs:
            self.log("train/grad_norm", norm)
            self.log("train/skipped_steps", float(self.skipped_steps))
            self.log("train/clipped_fraction", self._clipped / self._unlogged)
            for name in losses[0].logged:
                values = torch.cat([part.logged[name] for part in losses])
                self.log(f"train/{name}", self._mean(values.mean()))
            self._clipped, self._unlogged = 0, 0

    def _hear(self, behind: int) -> None:
        """Learn of steps that changed nothing, but for some that were taken last.

        After one of them weights are as they were in it: the next step has not changed them yet.
        """
        while len(self._unheard) > behind:
            step = self._unheard.pop(0)
            if step.flags()[1]:
                tell(self, step)
