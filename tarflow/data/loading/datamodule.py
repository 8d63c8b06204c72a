"""Batches of a data set, for Lightning's Trainer."""

from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from tarflow.arguments import check_integer
from tarflow.data.divided_data import DividedData
from tarflow.data.loading.batches import Batch, Drawn, Numbered, Readable, collate
from tarflow.data.loading.orders import Batches, EvaluationBatches
from tarflow.data.loading.shares import BatchShares
from tarflow.data.table_data import TableData
from tarflow.errors import DataError
from tarflow.registry import register


class ResumedLoader(DataLoader):
    """Goes on in mid-epoch, which Lightning sees by these methods; its data module does it."""

    def state_dict(self) -> dict[str, int]:
        """Nothing: the data module keeps the place."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to do."""


@register
class DataModule(LightningDataModule):
    """Batches of a data set; training examples in an order drawn anew in each epoch.

    The order follows from the seed of torch when this is built (call
    `lightning.seed_everything` before). A resumed run goes on with the batch after the last one
    that its checkpoint knows, in mid-epoch too.

    Batch sizes count the examples of all processes together: the share of each, and the number of
    steps that accumulate gradients, follow from them, so that a run means the same on any number
    of devices. Every batch is a `Batch`.

    Args:
        data: The data set.
        batch_size: Number of examples in a training batch, over all processes.
        eval_batch_size: Number of examples in another batch; by default, the same.
        device_batch_size: Number of examples that a device takes at once in training; more steps
            make up for it by accumulating gradients. By default, its whole share.
        num_workers: Number of processes that read examples, for each device; 0 reads them in the
            training process, which is fastest for data in memory.
        drop_last: Whether to leave out the last training batch of an epoch if it is not full.

    Raises:
        DataError: A batch is empty, or larger than the training set and always left out; later,
            it cannot be divided between the processes, or there is nothing to validate on.
    """

    def __init__(
        self,
        data: DividedData,
        batch_size: int,
        eval_batch_size: int | None = None,
        device_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = True,
    ):
        super().__init__()
        self.data = data
        self.batch_size = check_integer("batch_size", batch_size, 1, DataError)
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        check_integer("eval_batch_size", self.eval_batch_size, 1, DataError)
        self.device_batch_size = device_batch_size
        self.num_workers = check_integer("num_workers", num_workers, 0, DataError)
        self.drop_last = drop_last
        num_train = len(data.parts["train"])
        if drop_last and batch_size > num_train:
            raise DataError(
                f"batch_size {batch_size} exceeds the {num_train} training {data.noun}, so every"
                f" batch would be left out: choose at most {num_train}, or drop_last=False"
            )
        self.batches = Batches(num_train, batch_size, torch.initial_seed(), drop_last)

    def setup(self, stage: str) -> None:
        """Share the batches out, and turn validation off where none were set aside for it."""
        fitting = self.trainer if stage == "fit" else None
        if fitting is not None:
            self._share_out(fitting)
        if self.data.validation is not None:
            return
        if stage == "validate":
            raise DataError(f"{self.data.name} has no validation part: pass validation_fraction")
        if fitting is not None:
            # Lightning warns of an empty list of loaders, and runs callbacks of an empty loop
            fitting.limit_val_batches = 0

    def train_dataloader(self) -> DataLoader:
        return self._loader(Drawn(self.data.train), ResumedLoader, batch_sampler=self.batches)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Batches to choose by; none where no examples were set aside."""
        return [] if self.data.validation is None else self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        return self._evaluation("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment what is trained on, from the seed and the batch's number alone."""
        trainer = self.trainer
        assert trainer is not None
        if self.data.augment is None or not trainer.training:
            return batch
        # Lightning counts a batch after it has moved it, so this is the number of those before.
        number = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        source = self.batches.shares.source(self.batches.seed, number)
        return batch._replace(x=self.data.augment(batch.x, source))

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: how many batches are done, in this order."""
        trainer = self.trainer
        assert trainer is not None
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.processed
        if done >= trainer.num_training_batches:
            done = len(self.batches)
        done += self.batches.epoch * len(self.batches)
        return {"done": done, "parts": self.batches.shares.parts}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        done = state_dict["done"] // state_dict["parts"]  # whole batches
        self.batches.first = done * self.batches.shares.parts

    def _share_out(self, trainer: Trainer) -> None:
        """Divide training batches by processes and steps, and tell the trainer of the steps."""
        rank, world_size = trainer.global_rank, trainer.world_size
        shares = BatchShares.divide(self.batch_size, self.device_batch_size, rank, world_size)
        if shares.rows < self.batch_size and not self.drop_last:
            raise DataError(
                "drop_last=False leaves a smaller batch, which cannot be divided between processes"
                " or steps: leave it out, or train in one process without device_batch_size"
            )
        if trainer.accumulate_grad_batches not in (1, shares.parts):
            raise DataError(
                f"accumulate_grad_batches {trainer.accumulate_grad_batches}: leave it out, since"
                f" it follows from batch_size and device_batch_size (and is {shares.parts})"
            )
        if trainer.accumulate_grad_batches != shares.parts:
            trainer.accumulate_grad_batches = shares.parts
            interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
            if every is None and isinstance(interval, int):
                trainer.val_check_interval = shares.parts * interval  # users count steps
        self.batches.shares = shares

    def _evaluation(self, part: str) -> DataLoader:
        """This process's share of a part, in its order."""
        dataset = self.data.parts[part]
        place = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = EvaluationBatches(len(dataset), self.eval_batch_size, *place)
        # A run does not end by an example that it could do without; a reported number would.
        kind = Readable if self.trainer and self.trainer.state.fn == "fit" else Numbered
        return self._loader(kind(dataset), batch_sampler=batches)

    def _loader(self, dataset: Drawn | Numbered, kind: type = DataLoader, **options) -> DataLoader:
        """Batch a part of the data."""
        return kind(
            dataset,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )


@register
class TableDataModule(DataModule):
    """Batches of rows of a table; one that is smaller than a batch is a batch as a whole.

    Args:
        data: The table.
        batch_size: Largest number of rows of a training batch.
        eval_batch_size: As for `DataModule`, and so is what follows.
    """

    def __init__(
        self,
        data: TableData,
        batch_size: int = 256,
        eval_batch_size: int = 1024,
        device_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = True,
    ):
        size = min(check_integer("batch_size", batch_size, 1, DataError), len(data.parts["train"]))
        super().__init__(data, size, eval_batch_size, device_batch_size, num_workers, drop_last)


@register
class ImageDataModule(DataModule):
    """Batches of a data set of images: a `DataModule`, by the name that checkpoints know."""
