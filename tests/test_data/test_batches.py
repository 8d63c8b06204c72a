"""Batches: what they hold, how they travel, and data sets that are not labelled pixels."""

import hashlib
from dataclasses import dataclass

import lightning
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, Subset

from tarflow import Codec, Context, Pixels, UniformDequantization
from tarflow.data import (
    ArrayDataset,
    Batch,
    ImageData,
    ImageDataModule,
    digits,
    prepare,
    random_images,
    read_batch,
)
from tarflow.data.loading.batches import PADDING, Numbered, collate
from tarflow.data.loading.orders import Batches
from tarflow.data.loading.shares import BatchShares
from tarflow.errors import DataError
from tarflow.registry import KNOWN

from ..quiet import QUIET


def pixels(count):
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_rows_are_read_as_they_are_one_by_one():
    for data in (digits(), random_images(30, 10, image_size=4)):
        batch = read_batch(data.train, range(5, 12))
        assert batch.index.tolist() == list(range(5, 12))
        for row, index in enumerate(range(5, 12)):
            image, context = data.train[index]
            assert torch.equal(batch.x[row], image)
            assert {name: int(part[row]) for name, part in batch.context.parts.items()} == context


def test_data_without_labels_have_no_context():
    batch = read_batch(random_images(30, 10, image_size=4, num_classes=0).test, range(10))
    assert list(batch.context) == []


def test_among_labelled_images_one_without_a_label_has_the_null():
    some = ArrayDataset(pixels(3), torch.tensor([1, -1, 0]))
    assert read_batch(some, range(3)).context["label"].tolist() == [1, -1, 0]
    none = ArrayDataset(pixels(3), torch.tensor([-1, -1, -1]))
    assert list(read_batch(none, range(3)).context) == []


def test_parts_of_a_context_are_numbers_or_tensors():
    contexts = [{"label": i, "heat": i / 2, "vector": torch.full((3,), i)} for i in range(4)]
    batch = collate([(torch.zeros(2), context, i) for i, context in enumerate(contexts)])
    assert batch.context["label"].dtype == torch.int64
    assert batch.context["heat"].dtype == torch.float32
    assert batch.context["heat"].tolist() == [0, 0.5, 1, 1.5]
    assert batch.context["vector"].tolist() == [[i] * 3 for i in range(4)]


@pytest.mark.parametrize("other", [{}, {"label": 1, "heat": 2.0}, 7, None])
def test_examples_with_other_contexts_are_named(other):
    examples = [(torch.zeros(2), {"label": 0}, 4), (torch.zeros(2), other, 9)]
    with pytest.raises(DataError, match=r"example 9 has the context .* give all examples of a"):
        collate(examples)
    with pytest.raises(DataError, match=r"example 4 has the context 3.*such as {\"label\": 3}"):
        collate([(torch.zeros(2), 3, 4)])


def test_padding_is_read_as_the_first_example_and_numbered_so():
    batch = collate(Numbered(digits().test).__getitems__([3, PADDING]))
    assert batch.index.tolist() == [3, PADDING]
    assert torch.equal(batch.x[1], digits().test[0][0])


def test_training_batches_tell_which_examples_they_hold():
    module = ImageDataModule(digits(), batch_size=100, num_workers=1)
    for batch in module.train_dataloader():
        for image, index in zip(batch.x, batch.index.tolist(), strict=True):
            assert torch.equal(image, module.data.train[index][0])


def test_lightning_moves_every_part():
    batch = read_batch(digits().test, range(4))
    moved = lightning.LightningModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, Batch)
    assert isinstance(moved.context, Context)
    tensors = (moved.x, moved.index, moved.context["label"])
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 3


class Counting(TorchDispatchMode):
    """Counts permutations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += "randperm" in str(function)
        return function(*arguments, **(options or {}))


def test_an_epoch_is_permuted_once():
    batches = Batches(100, 10, seed=0, drop_last=True)
    with Counting() as counting:
        for _ in range(3):
            assert len(list(batches)) == 10
    assert counting.count == 3


@pytest.mark.parametrize(
    ("batches", "first", "shares", "expected"),
    [
        (Batches(40, 12, 3, True), 0, BatchShares(12), "b9c2c53669398528"),
        (Batches(1000, 48, 7, False), 30, BatchShares.divide(48, 4, 2, 3), "6995ec79f211e208"),
    ],
)
def test_the_order_is_that_of_every_run_before(batches, first, shares, expected):
    """Checkpoints know a place in it, and published curves rest on it."""
    batches.first, batches.shares = first, shares
    drawn = [draws for _ in range(3) for draws in batches]
    assert hashlib.sha256(repr(drawn).encode()).hexdigest()[:16] == expected


class Indexed(ArrayDataset):
    """Counts how often it is read."""

    reads = 0

    def __getitems__(self, indices):
        self.reads += 1
        return super().__getitems__(indices)


class Drawing(Dataset):
    """Draws as it reads."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.rand(1, 1, 1), {}


def test_training_reads_a_batch_with_one_indexing():
    part = Indexed(pixels(12), torch.arange(12))
    data = ImageData("made up", Subset(part, range(12)), None, part, Pixels(256), 12, (1, 2, 2))
    read = list(ImageDataModule(data, batch_size=4).train_dataloader())
    assert part.reads == len(read) == 3
    assert all(torch.equal(batch.x, pixels(12)[batch.index]) for batch in read)


@pytest.mark.parametrize("wrapped", [lambda part: part, lambda part: Subset(part, range(12))])
def test_what_an_example_draws_is_its_own(wrapped):
    """However it is batched: a `Subset` looks as if it read batches, and reads one by one."""
    part = wrapped(Drawing())
    data = ImageData("drawn", part, None, part, Pixels(256), 0, (1, 1, 1))
    torch.manual_seed(0)
    module = ImageDataModule(data, batch_size=12)
    [whole] = module.train_dataloader()
    assert len(set(whole.x.flatten().tolist())) == 12
    torch.manual_seed(0)
    module = ImageDataModule(data, batch_size=12)
    module.batches.shares = BatchShares(12, parts=3)
    assert torch.equal(torch.cat([part.x for part in module.train_dataloader()]), whole.x)


def test_what_the_data_determines():
    determined = {"image_size": (8, 8), "num_channels": 1, "num_classes": 10, "levels": 17}
    assert digits().determined == {**determined, "class_names": tuple("0123456789")}


def test_configurations_know_the_data_sets():
    for name in (
        *("digits", "arrays", "image_folder", "photographs", "random_images", "tar_shards"),
        *("cifar10", "imagenet", "imagenet64", "afhq", "ffhq", "memory_mapped"),
        *("ImageDataModule", "Arrays", "Shards"),
    ):
        assert KNOWN[name] is getattr(__import__("tarflow.data", fromlist=[name]), name)


@dataclass(frozen=True)
class Standardized(Codec):
    """Floats with a mean and a standard deviation."""

    mean: float = 0.0
    std: float = 1.0

    def encode(self, stored, source=None, dtype=torch.float32):
        return (stored.to(dtype) - self.mean) / self.std

    def decode(self, x):
        return x * self.std + self.mean

    def to_bytes(self, stored):
        return stored.clamp(0, 255).to(torch.uint8)


class Fields(Dataset):
    """Float images with two conditions."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        image = torch.full((2, 4, 6), index / 7)
        return image, {"noise_level": index / 10, "vector": torch.arange(3) + index}


class Reading(lightning.LightningModule):
    """Keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def validation_step(self, batch, _):
        """So that Lightning does not warn."""

    def training_step(self, batch, _):
        self.seen.append(batch)
        return self.weight**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


@pytest.fixture
def fields():
    return ImageData("fields", Fields(), None, Fields(), Standardized(3.0, 2.0), 0, (2, 4, 6))


def test_data_of_another_kind_reach_the_trainer(tmp_path, fields):
    assert fields.determined == {
        **{"image_size": (4, 6), "num_channels": 2, "num_classes": 0, "class_names": ()},
        **{"mean": 3.0, "std": 2.0},
    }
    runner = lightning.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    module = Reading()
    runner.fit(module, ImageDataModule(fields, batch_size=5))
    assert sorted(index for batch in module.seen for index in batch.index.tolist()) == [*range(10)]
    for batch in module.seen:
        assert torch.equal(batch.x[:, 0, 0, 0], (batch.index / 7).float())
        assert torch.allclose(batch.context["noise_level"], batch.index / 10)
        assert torch.equal(batch.context["vector"], batch.index[:, None] + torch.arange(3))


def test_data_of_another_kind_are_not_prepared(tmp_path, fields):
    with pytest.raises(DataError, match=r"fields is stored for Standardized\(mean=3.0, std=2.0\)"):
        prepare(fields, tmp_path / "out")
    for codec in (UniformDequantization(256), Pixels(1000)):
        part = ArrayDataset(pixels(3), torch.zeros(3, dtype=torch.long))
        with pytest.raises(DataError, match=r"bytes alone, of Pixels\(2\)"):
            prepare(ImageData("made up", part, None, part, codec, 1, (1, 2, 2)), tmp_path / "out")
    floats = ImageData("floats", Fields(), None, Fields(), Pixels(256), 0, (2, 4, 6))
    with pytest.raises(
        DataError, match=r"torch.float32 and the parts \['noise_level', 'vector'\]"
    ):
        prepare(floats, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_worker_processes_send_batches_whole():
    loader = DataLoader(Numbered(digits().test), 90, num_workers=2, collate_fn=collate)
    for batch, start in zip(loader, range(0, 360, 90), strict=True):
        alone = read_batch(digits().test, range(start, start + 90))
        assert torch.equal(batch.x, alone.x)
        assert torch.equal(batch.context["label"], alone.context["label"])
        assert torch.equal(batch.index, alone.index)
