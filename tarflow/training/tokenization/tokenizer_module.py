"""The Lightning module that fits a tokenizer."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tarflow.arguments import check_instance, check_integer
from tarflow.data.loading.batches import Batch
from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import ConfigurationError, DataError, NonFiniteError
from tarflow.randomness import ExampleSeeds
from tarflow.registry import register
from tarflow.tokenizers.tokenizer import Tokenizer
from tarflow.training.averaging import with_weights
from tarflow.training.fit_module import WHOLE, FitModule
from tarflow.training.objective import Loss
from tarflow.training.tokenization.code_counter import CodeCounter
from tarflow.training.tokenization.tokenizer_objective import TokenizerObjective

MEASURED_AT_A_TIME = 256


@register
class TokenizerModule(FitModule):
    """Fits a tokenizer; see `FitModule`.

    With a codebook, the share of the codes in use and their perplexity are logged, over each epoch
    of training and each validation, as `codes_in_use` and `perplexity`.

    Args:
        tokenizer: The tokenizer.
        objective: What is minimized.
        optimizer: Makes the optimizer from the named parameters of the tokenizer that learn.
        schedule: Makes the learning-rate schedule, stepped every batch.
        max_grad_norm: As for `FitModule`, and so is `max_skipped_steps`.
        num_measured: Number of training images, evenly spaced, on which the shift and the scale of
            latents are measured whenever the tokenizer is written.

    Attributes:
        train_codes: How often codes were used in this epoch; None without a codebook.
        val_codes: The same of the last validation.
    """

    objective: TokenizerObjective

    def __init__(
        self,
        tokenizer: Tokenizer,
        objective: TokenizerObjective,
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler],
        max_grad_norm: float = 1.0,
        max_skipped_steps: int = 20,
        num_measured: int = 4096,
    ):
        check_instance("tokenizer", tokenizer, Tokenizer, "pass the model that learns")
        advice = "pass one, such as TokenizerObjective()"
        check_instance("objective", objective, TokenizerObjective, advice)
        super().__init__(optimizer, schedule, objective, max_grad_norm, max_skipped_steps)
        self.num_measured = check_integer("num_measured", num_measured, least=1)
        self.tokenizer = tokenizer
        num_codes = objective.num_codes(tokenizer)
        self.train_codes = None if num_codes is None else CodeCounter(num_codes)
        self.val_codes = None if num_codes is None else CodeCounter(num_codes)
        self.train()  # a tokenizer that was loaded is in eval mode

    @property
    def model(self) -> Tokenizer:
        return self.tokenizer

    @property
    def dtype_of_weights(self) -> torch.dtype:
        return self.tokenizer.scale.dtype

    def configure_model(self) -> None:
        if self._device_mesh is not None:
            raise ConfigurationError(WHOLE)
        super().configure_model()

    def exported(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights with the shift and the scale of the latents that they make of images."""
        if not self.objective.learns_latents:
            return weights
        model = with_weights(self.tokenizer, weights, self.device)
        try:
            model.measure(self._images())
        except DataError as error:  # a young codebook may be used by one code, and grow
            step = self.trainer.global_step
            warnings.warn(
                f"shift and scale of step {step} are not measured: {error}", stacklevel=2
            )
        return {name: value.cpu() for name, value in model.state_dict().items()}

    def explain(self, loss: Loss) -> None:
        finite = loss.value.isfinite()
        raise NonFiniteError(f"{int((~finite).sum())} of {len(finite)} reconstructions", None)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx == 0 and self.train_codes is not None:  # not at the end of an epoch, where
            self.train_codes.reset()  # a run may stop, and go on with what is counted

    def on_step(self, losses: list[Any], finite: Tensor) -> None:
        """Count the codes of the whole batch, if that is finite."""
        if self.train_codes is not None:
            self.train_codes.add(torch.cat([loss.codes for loss in losses]), finite)

    def on_train_epoch_end(self) -> None:
        self._log_usage("train", self.train_codes)

    def on_validation_epoch_start(self) -> None:
        if self.val_codes is not None:
            self.val_codes.reset()

    def validated(self, batch: Batch, source: ExampleSeeds) -> Mapping[str, Tensor]:
        loss = self.objective(self.tokenizer, batch, source)
        if self.val_codes is not None:
            self.val_codes.add(loss.codes[batch.index >= 0])
        return {self.objective.name: loss.value / self.tokenizer.num_dims, **loss.logged}

    def on_validation_epoch_end(self) -> None:
        self._log_usage("val", self.val_codes)

    def _log_usage(self, part: str, codes: CodeCounter | None) -> None:
        """Log how the codes of a part were used."""
        if codes is not None:
            self.log_dict({f"{part}/{name}": value for name, value in codes.told.items()})

    def _images(self) -> Iterator[UInt8[Tensor, "batch channels height width"]]:
        """Training images to measure latents on: the same ones every time."""
        part = self.trainer.datamodule.data.train  # pyright: ignore[reportAttributeAccessIssue]
        spacing = -(-len(part) // self.num_measured)
        read = ReadAhead(part)
        for start in range(0, len(part), spacing * MEASURED_AT_A_TIME):
            stop = min(start + spacing * MEASURED_AT_A_TIME, len(part))
            with torch.random.fork_rng([]):  # some data sets draw as they are read
                torch.manual_seed(start)
                batch = read(range(start, stop, spacing))
            yield batch.x[batch.index >= 0].to(self.device)
