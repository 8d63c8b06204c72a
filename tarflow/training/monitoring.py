"""What a training run tells of itself: its speed, its memory, and how each transform fares."""

import functools
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tarflow.data.loading.batches import Batch
from tarflow.machine.device import now
from tarflow.registry import register
from tarflow.training.acceleration import autoregressive_transforms, multiplied_in
from tarflow.training.operations import peak_rate
from tarflow.training.picture_grid import PictureGrid
from tarflow.training.steps import callbacks_of


@register
class Throughput(Callback):
    """Logs images and tokens per second, their share of the machine's peak, and memory.

    The rates are those of all processes together since they were last logged. Reading data counts.
    Validation, checkpoints and sample grids do not, if this comes before the callbacks that make
    them; of a batch after which one is made, the wait for the next batch is left out too.

    The model FLOP utilization is the operations per second of `training_operations`, divided by
    the `peak_rate` of the devices in the precision in which the transformers multiply. It is left
    out where a module does not know its operations.
    """

    def __init__(self):
        self._cost: float | None = None  # of an image, in seconds of one device at its peak
        self._images, self._seconds = 0, 0.0
        self._since: float | None = None  # None while the clock is stopped

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if (operations := pl_module.operations) is not None:
            dtype = multiplied_in(trainer.precision, pl_module.dtype_of_weights)
            self._cost = operations / peak_rate(pl_module.device, dtype)
        self._images, self._seconds, self._since = 0, 0.0, None
        peak_memory(pl_module.device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self._since is None:
            self._since = now("cpu")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.index)
        ends_step = not trainer.fit_loop._should_accumulate()
        if ends_step and trainer._logger_connector.should_update_logs:
            self._stop(pl_module.device)
            rate = trainer.world_size * self._images / self._seconds
            rates = {
                "perf/images_per_second": rate,
                "perf/memory_gib": peak_memory(pl_module.device) / 2**30,
            }
            if pl_module.length is not None:
                rates["perf/tokens_per_second"] = rate * pl_module.length
            if self._cost is not None:
                rates["perf/mfu"] = rate * self._cost / trainer.world_size
            pl_module.log_dict(rates)
            self._images, self._seconds, self._since = 0, 0.0, now("cpu")
        grids = (each for each in callbacks_of(trainer) if isinstance(each, PictureGrid))
        if any(trainer.global_step % grid.every_n_steps == 0 for grid in grids):
            self._stop(pl_module.device)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict) -> None:
        self._stop(pl_module.device)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._stop(pl_module.device)

    def _stop(self, device: torch.device) -> None:
        """Halt the clock, once the device has finished what it was given."""
        if self._since is not None:
            self._seconds += now(device) - self._since
            self._since = None


@register
class TransformStatistics(Callback):
    """Logs what each autoregressive transform does to the batch, in the steps that are logged.

    That is the mean square of the z that it gives out and its mean log-determinant per dimension;
    transforms are counted from the data. The batch is the part of it that the first process took
    last, where gradients are accumulated or several processes share it.
    """

    def __init__(self):
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._seen: dict[str, Tensor] = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer._logger_connector.should_update_logs:
            places = defaultdict(list)  # of a transform that is used several times, in turn
            for index, transform in enumerate(autoregressive_transforms(pl_module.model)):
                places[transform].append(index)
            for transform, indices in places.items():
                look = functools.partial(self._look, itertools.cycle(indices))
                self._hooks.append(transform.register_forward_hook(look))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._unhook()
        if self._seen:
            pl_module.log_dict(self._seen)
            self._seen = {}

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._unhook()

    def _look(self, places: Iterator[int], transform: Any, inputs: Any, output: Any) -> None:
        """Keep a transform's statistics, on the device that computed them."""
        index = next(places)
        z, log_det = (part.detach() for part in output)
        self._seen[f"transform_{index}/z_mean_square"] = z.square().mean()
        self._seen[f"transform_{index}/log_det"] = log_det.mean() / z[0].numel()

    def _unhook(self) -> None:
        """Leave the transforms as they were."""
        while self._hooks:
            self._hooks.pop().remove()


def peak_memory(device: torch.device) -> int:
    """The largest number of bytes held: of CUDA since the last call, else by the process ever."""
    if device.type == "cuda":
        largest = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return largest
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
