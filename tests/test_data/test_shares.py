"""Batches are divided evenly, every row once, the same rows however they are divided."""

import lightning
import pytest

from tarflow import DataError
from tarflow.data import ImageDataModule, digits
from tarflow.data.loading.batches import PADDING
from tarflow.data.loading.orders import Batches, EvaluationBatches
from tarflow.data.loading.shares import BatchShares


def read(world_size: int, device_batch_size: int | None = None) -> list[set]:
    """The draws of each of the first seven batches of 12, put together of what processes read."""
    found = [set() for _ in range(7)]
    for rank in range(world_size):
        batches = Batches(40, 12, seed=3, drop_last=True)
        batches.shares = BatchShares.divide(12, device_batch_size, rank, world_size)
        parts = batches.shares.parts
        drawn = [draws for _ in range(3) for draws in batches][: 7 * parts]
        for number, draws in enumerate(drawn):
            assert len(draws) == 12 // (world_size * parts)
            found[number // parts].update(draws)
    return found


@pytest.mark.parametrize("division", [(1, 4), (2, None), (2, 3), (3, 2), (12, None)])
def test_however_a_batch_is_divided_the_same_is_drawn_for_it(division):
    alone = read(1)
    assert [len(batch) for batch in alone] == [12] * 7
    assert read(*division) == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((15, None, 0, 2), "batch_size 15 cannot be divided evenly between 2 processes: choose a"),
        ((16, 3, 0, 2), "device_batch_size 3 does not divide the 8 .* choose one of 1, 2, 4, 8"),
        ((16, 0, 0, 1), "device_batch_size 0 does not divide"),
        ((16, 32, 0, 1), "device_batch_size 32 does not divide"),
    ],
)
def test_an_impossible_division_is_an_error(arguments, message):
    with pytest.raises(DataError, match=message):
        BatchShares.divide(*arguments)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_counts_every_example_once_and_all_processes_read_as_often(world_size):
    shares = [list(EvaluationBatches(23, 10, rank, world_size)) for rank in range(world_size)]
    sizes = [[len(batch) for batch in share] for share in shares]
    assert all(size == sizes[0] for size in sizes)
    counted = [index for share in shares for batch in share for index in batch if index != PADDING]
    assert sorted(counted) == list(range(23))


def trainer(**options) -> lightning.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return lightning.Trainer(accelerator="cpu", max_steps=1, **quiet, **options)


def test_accumulation_follows_from_the_batch_size_and_cannot_be_set_beside_it():
    module = ImageDataModule(digits(), batch_size=16, device_batch_size=4)
    module.trainer = trainer()
    module.setup("fit")
    assert module.trainer.accumulate_grad_batches == 4
    module.trainer = trainer(check_val_every_n_epoch=None, val_check_interval=5)
    module.setup("fit")
    assert module.trainer.val_check_interval == 20  # batches, which are 5 steps
    module = ImageDataModule(digits(), batch_size=16)
    module.trainer = trainer(accumulate_grad_batches=2)
    with pytest.raises(DataError, match="accumulate_grad_batches 2: leave it out"):
        module.setup("fit")


def test_a_smaller_last_batch_cannot_be_divided():
    module = ImageDataModule(digits(), batch_size=16, device_batch_size=8, drop_last=False)
    module.trainer = trainer()
    with pytest.raises(DataError, match="drop_last=False leaves a smaller batch"):
        module.setup("fit")


def test_a_checkpoint_of_another_accumulation_goes_on_with_the_same_batch():
    module = ImageDataModule(digits(), batch_size=16, device_batch_size=4)
    module.trainer = trainer()
    module.setup("fit")
    module.load_state_dict({"done": 6, "parts": 2})
    assert module.batches.first == 3 * 4
