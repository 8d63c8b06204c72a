"""The official .npz batches of downsampled ImageNet: stored, compressed, damaged."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tarflow.data import imagenet64
from tarflow.data.storage.npz_batches import map_member
from tarflow.errors import DataError

SUBSET = {"check_counts": False}


def save_batches(folder, save=np.savez, count=3, side=64, first_label=1):
    """Official .npz batches; eleven, of which the tenth sorts wrongly by name."""
    rng = np.random.default_rng(0)
    stored = {}
    names = [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]
    for name in names:
        pixels = rng.integers(0, 256, (count, 3 * side * side), np.uint8)
        labels = first_label + (np.arange(count) + 400 * len(stored)) % 1000
        save(folder / f"{name}.npz", data=pixels, labels=labels, mean=pixels.mean(0))
        stored[name] = (pixels, labels)
    return stored


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_npz_batches(tmp_path, save, num_workers):
    stored = save_batches(tmp_path, save)
    data = imagenet64(tmp_path, "new", **SUBSET)
    assert (len(data.train), len(data.test)) == (30, 3)
    assert data.image_shape == (3, 64, 64)
    assert data.num_classes == 1000
    assert "ImageNet 64, new version (box-downsampled, arXiv 1707.08819)" in data.name
    expected = np.concatenate([stored[f"train_data_batch_{i}"][0] for i in range(1, 11)])
    batches = list(DataLoader(data.train, 4, num_workers=num_workers))
    images = torch.cat([images for images, _ in batches]).numpy()
    assert (images.reshape(30, -1) == expected).all()
    labels = torch.cat([context["label"] for _, context in batches])
    assert labels[:4].tolist() == [0, 1, 2, 400]
    assert labels.tolist() == data.train.labels.tolist()


def test_uncompressed_batches_are_mapped_and_read_in_any_order(tmp_path):
    stored = save_batches(tmp_path)
    mapped = map_member(tmp_path / "val_data.npz", "data")
    assert isinstance(mapped, np.memmap)
    assert (mapped == stored["val_data"][0]).all()
    train = imagenet64(tmp_path, "new", **SUBSET).train
    copy = pickle.loads(pickle.dumps(train))
    assert len(pickle.dumps(train)) < 2000
    for index in (29, 0, 15):
        assert torch.equal(copy[index][0], train[index][0])


def test_compressed_batches_are_read_in_order_only(tmp_path):
    save_batches(tmp_path, np.savez_compressed)
    train = imagenet64(tmp_path, "new", **SUBSET).train
    train[20]
    with pytest.raises(DataError, match=r"compressed.*convert the batches once with tarflow prep"):
        train[0]


def test_damaged_batches(tmp_path):
    save_batches(tmp_path)
    path = tmp_path / "train_data_batch_4.npz"
    sound = path.read_bytes()
    path.write_bytes(sound[:5000])
    with pytest.raises(DataError, match=r"batch_4.npz cannot be read .*download it again"):
        imagenet64(tmp_path, "new", **SUBSET)
    np.savez(path, images=np.zeros((2, 12288), np.uint8))
    with pytest.raises(DataError, match=r"batch_4.npz cannot be read .*data and labels"):
        imagenet64(tmp_path, "new", **SUBSET)
    np.savez(path, data=np.zeros((2, 3072), np.uint8), labels=np.array([1, 2]))
    with pytest.raises(DataError, match=r"data of shape \(2, 3072\).*a row of 12288 bytes"):
        imagenet64(tmp_path, "new", **SUBSET)
    np.savez(path, data=np.zeros((2, 12288), np.uint8), labels=np.array([0, 1]))
    with pytest.raises(DataError, match=r"go from 0 to 1: expected are 1 ... 1000"):
        imagenet64(tmp_path, "new", **SUBSET)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.npy", pickle.dumps([1]))
    with pytest.raises(DataError, match="cannot be read"):
        imagenet64(tmp_path, "new", **SUBSET)
    (tmp_path / "val_data.npz").unlink()
    with pytest.raises(DataError, match=r"no files of the test part. .*val_data.npz; or as"):
        imagenet64(tmp_path, "new", **SUBSET)


def test_batches_of_other_number(tmp_path):
    save_batches(tmp_path)
    message = r"there are 30 train images, but ImageNet 64, new version .* has 1,281,167: complete"
    with pytest.raises(DataError, match=message):
        imagenet64(tmp_path, "new")
