"""The Lightning module that fits a flow by maximum likelihood."""

from collections.abc import Callable, Iterable, Sequence

import lightning
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tarflow.base import DiagonalNormal
from tarflow.context import Context
from tarflow.errors import ConfigurationError, NonFiniteError, TarflowError
from tarflow.noise import UniformDequantization
from tarflow.randomness import stream_seed
from tarflow.tar_flow import TarFlow

ADVICE = (
    "Try a lower learning rate, a longer warm-up, a lower max_grad_norm, a bounded scale"
    " (model.scale._target_=tarflow.SoftClipScale), or precision 32-true. The last checkpoint is"
    " untouched: the same command with resume=auto goes on from it"
)

Batch = Sequence[Shaped[Tensor, "batch ..."]]
"""Integer pixels and labels; Lightning hands a list."""


class DivergenceError(TarflowError):
    """Training produced a value that is not finite."""


class FlowModule(lightning.LightningModule):
    """Fits a flow to noisy data; batches are integer pixels and labels.

    All that is random in a step follows from the seed of torch when this is built and from the
    number of batches before it, so that a resumed run repeats what it would have done.

    Args:
        flow: The flow; `flow.noise` turns pixels into noisy data.
        optimizer: Makes the optimizer from the flow's named parameters.
        schedule: Makes the learning-rate schedule, stepped every batch.
        class_dropout: Probability of dropping an example's label.
        max_grad_norm: Largest norm of all gradients together; larger ones are scaled down to it.
    """

    def __init__(
        self,
        flow: TarFlow,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
        class_dropout: float = 0.1,
        max_grad_norm: float = 1.0,
    ):
        super().__init__()
        if flow.noise is None:
            raise ConfigurationError(
                "the flow has no noise: TarFlow(..., noise=UniformDequantization())"
            )
        self.flow = flow
        self.noise = flow.noise
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.class_dropout = class_dropout
        self.max_grad_norm = max_grad_norm
        self.seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Noise, dropped labels and dropout of a batch are the same after a resume as without one.
        done = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(stream_seed(self.seed, f"batch/{self.global_rank}", done))

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.flow.named_parameters())
        schedule = self.make_schedule(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        pixels, label = batch
        x = self.noise(pixels)
        context = self._context(label).drop_label(self.class_dropout)
        z, log_det = self.flow(x, context)
        log_prob = self.flow.base.log_prob(z) + log_det
        loss = -log_prob.mean() / self.flow.num_dims
        self._check(loss, x, context)
        if isinstance(self.flow.base, DiagonalNormal):
            self.flow.base.update(z)
        self.log("train/nats_per_dim", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pixels, label = batch
        # The same noise every time, so that the curve shows the model and not the draw.
        generator = torch.Generator(self.device).manual_seed(batch_idx)
        log_prob = self.flow.log_prob(self.noise(pixels, generator), self._context(label))
        nats = -log_prob / self.flow.num_dims
        self.log("val/nats_per_dim", nats.mean(), batch_size=len(pixels), sync_dist=True)
        if isinstance(self.noise, UniformDequantization):
            bits = self.noise.bits_per_dim(log_prob, self.flow.num_dims).mean()
            self.log("val/bits_per_dim", bits, True, batch_size=len(pixels), sync_dist=True)

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ) -> None:
        norm = nn.utils.clip_grad_norm_(self.flow.parameters(), self.max_grad_norm)
        if not norm.isfinite():
            raise DivergenceError(
                f"the gradient is not finite at step {self.global_step}. {ADVICE}"
            )
        self.log("train/grad_norm", norm)

    def _context(self, label: Tensor) -> Context:
        """The labels, where the flow knows classes."""
        return Context(label=label if self.flow.num_classes else None)

    def _check(self, loss: Tensor, x: Tensor, context: Context) -> None:
        """Stop at a loss that is not finite, and say where it came from."""
        try:
            self.flow.check_finite(loss, x, context)
        except NonFiniteError as error:
            raise DivergenceError(
                f"the loss is not finite at step {self.global_step}: {error}. {ADVICE}"
            ) from error
