"""Prepared data sets: what is written is read again, and half a data set never is."""

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from tarflow.data import Arrays, Shards, digits, memory_mapped, prepare, random_images
from tarflow.data.loading.augmentation import mirror
from tarflow.data.sources.memory_mapped import MappedImages
from tarflow.data.storage.prepared import Description
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels

FORMATS = [Arrays(), Shards(images_per_shard=7)]


def content_of(dataset):
    images, contexts = zip(*(dataset[index] for index in range(len(dataset))), strict=True)
    return torch.stack(images), list(contexts)


def assert_same(one, other):
    (images, contexts), (others, other_contexts) = content_of(one), content_of(other)
    assert torch.equal(images, others)
    assert contexts == other_contexts


@pytest.fixture
def data():
    return random_images(num_train=20, num_test=10, image_size=6, num_classes=4)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("num_channels", "num_classes"), [(3, 4), (1, 0)])
def test_what_is_written_is_read_again(tmp_path, format, num_workers, num_channels, num_classes):
    data = random_images(20, 10, 6, num_channels, num_classes, levels=17)
    description = prepare(data, tmp_path / "out", format, num_workers)
    assert description.counts == {"train": 20, "test": 10}
    read = memory_mapped(str(tmp_path / "out"), verify=True)
    assert_same(read.train, data.train)
    assert_same(read.test, data.test)
    for name in ("name", "codec", "num_classes", "image_shape", "class_names", "validation"):
        assert getattr(read, name) == getattr(data, name)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_both_formats_have_the_same_hash(tmp_path, data):
    arrays, shards = (prepare(data, tmp_path / format.name, format).sha256 for format in FORMATS)
    assert arrays == shards
    assert len(arrays["train"]) == 64
    assert arrays["train"] != arrays["test"]


def test_a_validation_part_and_class_names_are_kept(tmp_path):
    data = digits(validation_fraction=0.1)
    prepare(data, tmp_path / "out")
    read = memory_mapped(tmp_path / "out")
    assert_same(read.validation, data.validation)
    assert (read.codec, read.class_names) == (Pixels(17), tuple("0123456789"))
    with pytest.raises(DataError, match="the data has a validation part already"):
        memory_mapped(tmp_path / "out", validation_fraction=0.1)


@pytest.mark.parametrize("format", FORMATS)
def test_training_images_can_be_set_aside_and_mirrored(tmp_path, data, format):
    prepare(data, tmp_path / "out", format)
    read = memory_mapped(tmp_path / "out", validation_fraction=0.2, horizontal_flip=True)
    assert (len(read.train), len(read.validation), len(read.test)) == (16, 4, 10)
    assert read.augment is mirror
    assert torch.equal(read.test[0][0], data.test[0][0])
    assert read.train[0][0].dtype == torch.uint8


@pytest.mark.parametrize("format", FORMATS)
def test_workers_and_copies_open_the_files_anew(tmp_path, data, format):
    prepare(data, tmp_path / "out", format)
    train = memory_mapped(tmp_path / "out").train
    copy = pickle.loads(pickle.dumps(train))
    assert_same(copy, train)
    for context in ("fork", "spawn"):
        loader = DataLoader(train, 6, num_workers=2, multiprocessing_context=context)
        images, contexts = zip(*loader, strict=True)
        assert torch.equal(torch.cat(images), content_of(train)[0])
        labels = torch.cat([context["label"] for context in contexts]).tolist()
        assert [{"label": label} for label in labels] == content_of(train)[1]


def test_batches_of_a_map_are_its_images(tmp_path):
    prepare(random_images(500, 1, image_size=9), tmp_path / "out")
    train = memory_mapped(tmp_path / "out").train
    for indices in ([499, 0, 17, 17], list(range(500))):
        images, contexts = zip(*train.__getitems__(indices), strict=True)
        assert all(torch.equal(i, train[n][0]) for i, n in zip(images, indices, strict=True))
        assert list(contexts) == [train[n][1] for n in indices]
    assert torch.equal(train[-1][0], train[499][0])
    with pytest.raises(IndexError):
        train.__getitems__([500])


def test_a_map_is_not_pickled(tmp_path):
    prepare(random_images(100, 1, image_size=32), tmp_path / "out")
    train = memory_mapped(tmp_path / "out").train
    assert isinstance(train.images, np.memmap)
    assert len(pickle.dumps(train)) < 3000 < 100 * 3 * 32 * 32
    before = (tmp_path / "out" / "train_images.npy").read_bytes()
    image, _ = train[0]
    image += 1
    [(image, _), _] = train.__getitems__([0, 1])
    image += 1
    assert (tmp_path / "out" / "train_images.npy").read_bytes() == before


class Failing(Dataset):
    """Fails at its twelfth image."""

    def __init__(self, dataset, error):
        self.dataset, self.error = dataset, error

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index == 12:
            raise self.error
        return self.dataset[index]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("error", [DataError("7.jpg (truncated)"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path, data, format, error):
    with pytest.raises(type(error)):
        prepare(replace(data, train=Failing(data.train, error)), tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_refused_and_replaced(tmp_path, data, monkeypatch):
    """As if the power went: no exception is handled, and the folder is as it was."""
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    monkeypatch.setattr(os, "replace", lambda *_: None)
    monkeypatch.setattr(Description, "write", lambda *_: None)
    prepare(data, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"there is no .*meta.json: expected is a folder"):
        memory_mapped(tmp_path / ".out.new")
    for name in ("train-000009.tar", ".train-_.tar.index.npz"):
        (tmp_path / ".out.new" / name).write_bytes(b"rest")
    prepare(data, tmp_path / "out", Shards())
    assert_same(memory_mapped(tmp_path / "out").train, data.train)
    assert not (tmp_path / ".out.new").exists()
    assert not (tmp_path / "out" / "train-000009.tar").exists()


def test_nothing_is_overwritten(tmp_path, data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match=r"out exists already: choose another output"):
        prepare(data, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"


def test_images_of_another_shape(tmp_path, data):
    mixed = replace(data, image_shape=(3, 8, 8))
    with pytest.raises(DataError, match=r"train images are of shape \(3, 6, 6\), but .*3, 8, 8"):
        prepare(mixed, tmp_path / "out")


def test_formats_refuse_what_they_cannot_keep(tmp_path):
    with pytest.raises(DataError, match="1 or 3 channels, not 2: use arrays"):
        prepare(random_images(5, 5, 4, num_channels=2), tmp_path / "out", Shards())
    prepare(random_images(5, 5, 4, num_channels=2), tmp_path / "out")
    with pytest.raises(DataError, match="images_per_shard 0 must be at least 1"):
        Shards(images_per_shard=0)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy"])
def test_damaged_arrays(tmp_path, data, name):
    prepare(data, tmp_path / "out")
    cut(tmp_path / "out" / name)
    with pytest.raises(DataError, match=rf"{name}.* cannot be read .*expected is a folder that"):
        memory_mapped(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}.* cannot be read"):
        memory_mapped(tmp_path / "out")


def test_changed_content(tmp_path, data):
    prepare(data, tmp_path / "out")
    np.lib.format.open_memmap(tmp_path / "out" / "train_images.npy", "r+")[3, 0, 0, 0] ^= 1
    memory_mapped(tmp_path / "out")
    with pytest.raises(DataError, match=r"train images .* have the hash .*files have changed"):
        memory_mapped(tmp_path / "out", verify=True)


def change(folder, **changes):
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("format", FORMATS)
def test_a_description_that_does_not_fit(tmp_path, data, format):
    prepare(data, tmp_path / "out", format)
    change(tmp_path / "out", counts={"train": 21, "test": 10})
    with pytest.raises(DataError, match=r"holds 20 train images, but its meta.json tells of 21"):
        memory_mapped(tmp_path / "out")
    change(tmp_path / "out", counts={"train": 20, "test": 10}, image_shape=[3, 6, 7])
    with pytest.raises(DataError, match=r"are of shape \(3, 6, 6\), but its meta.json"):
        memory_mapped(tmp_path / "out")
    change(tmp_path / "out", colour="blue")
    with pytest.raises(DataError, match=r"meta.json cannot be read"):
        memory_mapped(tmp_path / "out")


def test_other_arrays_are_refused(tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(4))
    for images in (np.zeros((5, 3, 2, 2), np.uint8), np.zeros((4, 3, 2, 2), np.float32)):
        np.save(tmp_path / "images.npy", images)
        with pytest.raises(DataError, match="expected are uint8, and one label for each image"):
            MappedImages(tmp_path / "images.npy", tmp_path / "labels.npy")


def test_a_subset_is_written(tmp_path, data):
    prepare(replace(data, train=Subset(data.train, [5, 2])), tmp_path / "out")
    assert torch.equal(memory_mapped(tmp_path / "out").train[1][0], data.train[2][0])
