"""Published data sets: small ones in the real formats, and everything that is refused."""

import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from tarflow.data import afhq, cifar10, ffhq, imagenet, imagenet64, prepare
from tarflow.data.loading.augmentation import mirror
from tarflow.data.sources.afhq import AFHQ
from tarflow.data.sources.editions import ClassFolders
from tarflow.data.sources.imagenet64 import IMAGENET64
from tarflow.data.storage.prepared import Description
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels

SUBSET = {"check_counts": False}


def picture(path, value=0, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def values_of(dataset):
    return [int(image[0, 0, 0]) for image, _ in dataset]


def labels_of(dataset):
    return [context.get("label") for _, context in dataset]


@pytest.fixture
def cifar(tmp_path):
    """The binary version with four images in each training file, and six of the test."""
    rng = np.random.default_rng(0)
    for name, count in [*((f"data_batch_{i}", 4) for i in range(1, 6)), ("test_batch", 6)]:
        rows = rng.integers(0, 256, (count, 3073), np.uint8)
        rows[:, 0] = np.arange(count)
        rows.tofile(tmp_path / f"{name}.bin")
    return tmp_path


def test_cifar10(cifar):
    data = cifar10(cifar, **SUBSET)
    assert (len(data.train), data.validation, len(data.test)) == (20, None, 6)
    assert labels_of(data.test) == list(range(6))
    assert (data.num_classes, data.codec, data.image_shape) == (10, Pixels(256), (3, 32, 32))
    assert data.class_names[:2] == ("airplane", "automobile")
    assert data.name == "CIFAR-10, as published, split as published"
    stored = np.fromfile(cifar / "data_batch_2.bin", np.uint8).reshape(-1, 3073)
    image, context = data.train[5]
    assert context == {"label": stored[1, 0]}
    # Red, then green, then blue, each row by row.
    assert image[1, 2, 3] == stored[1, 1 + 1024 + 2 * 32 + 3]


def test_cifar10_of_other_size(cifar):
    message = r"there are 20 train images, but CIFAR-10 has 50,000.*check_counts=false.*binary ver"
    with pytest.raises(DataError, match=message):
        cifar10(cifar)
    (cifar / "data_batch_3.bin").write_bytes(b"\0" * 3072)
    with pytest.raises(DataError, match=r"data_batch_3.bin has 3072 bytes, not a multiple of"):
        cifar10(cifar, **SUBSET)
    (cifar / "data_batch_3.bin").write_bytes(b"\x0a" * 3073)
    with pytest.raises(DataError, match=r"has the label 10. CIFAR-10 is expected as"):
        cifar10(cifar, **SUBSET)
    (cifar / "test_batch.bin").unlink()
    (cifar / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch.bin is missing. .*tarflow prepare data=cif"):
        cifar10(cifar, **SUBSET)


def test_pickles_of_cifar10_are_never_loaded(tmp_path):
    class Dangerous:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Dangerous()))
    with pytest.raises(DataError, match="the Python version holds pickles, which can run code"):
        cifar10(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_old_version_of_imagenet64(tmp_path):
    for index in range(3):
        picture(tmp_path / "train_64x64" / f"{index:05}.png", index)
    picture(tmp_path / "valid_64x64" / "00000.png", 9)
    data = imagenet64(str(tmp_path), "old", **SUBSET)
    assert values_of(data.train) == [0, 1, 2]
    assert labels_of(data.train) == [None] * 3
    assert values_of(data.test) == [9]
    assert data.num_classes == 0
    assert "old version (arXiv 1601.06759)" in data.name
    with pytest.raises(DataError, match=r"3 train images, but ImageNet 64, old .* has 1,281,149"):
        imagenet64(tmp_path, "old")
    with pytest.raises(DataError, match="version oldest is unknown: choose old or new"):
        imagenet64(tmp_path, "oldest")
    # Whoever has the other version is told apart, not given it.
    with pytest.raises(DataError, match=r"no files of the train part.*new version"):
        imagenet64(tmp_path, "new", **SUBSET)


def test_old_version_is_not_resized(tmp_path):
    for part in ("train_64x64", "valid_64x64"):
        picture(tmp_path / part / "0.png", size=(32, 32))
    with pytest.raises(DataError, match=r"of shape \(3, 32, 32\), not \(3, 64, 64\). ImageNet 64"):
        imagenet64(tmp_path, "old", **SUBSET)


@pytest.fixture
def few_classes(monkeypatch):
    """ImageNet of two classes."""
    edition = ClassFolders("ImageNet (ILSVRC 2012)", "data=imagenet", "folders", {
        "train": (4,), "test": (2,)}, 2, "val")  # fmt: skip
    monkeypatch.setattr("tarflow.data.sources.imagenet.IMAGENET", edition)


def write_classes(folder, classes, count):
    for label, name in enumerate(classes):
        for index in range(count):
            picture(folder / name / f"{index}.png", 10 * label + index, (80, 70))


def test_imagenet_folders(tmp_path, few_classes):
    write_classes(tmp_path / "train", ("n01440764", "n01443537"), 2)
    write_classes(tmp_path / "val", ("n01440764", "n01443537"), 1)
    data = imagenet(tmp_path, 32)
    assert values_of(data.train) == [0, 1, 10, 11]
    assert values_of(data.test) == [0, 10]
    assert labels_of(data.test) == [0, 1]
    assert data.class_names == ("n01440764", "n01443537")
    assert data.image_shape == (3, 32, 32)
    assert "ImageNet (ILSVRC 2012), 32 x 32 (shorter side" in data.name
    picture(tmp_path / "val" / "n01440764" / "extra.png")
    with pytest.raises(DataError, match=r"there are 3 test images, but ImageNet .* has 2: compl"):
        imagenet(tmp_path, 32)


def test_imagenet_with_flat_validation_images(tmp_path, few_classes):
    write_classes(tmp_path / "train", ("n01440764", "n01443537"), 2)
    picture(tmp_path / "val" / "ILSVRC2012_val_00000001.png")
    with pytest.raises(DataError, match=r"2 in train, 0 in val\. ImageNet .* is expected as"):
        imagenet(tmp_path, 32)
    write_classes(tmp_path / "val", ("n01440764",), 1)
    with pytest.raises(
        DataError, match=r"val holds pictures .1, such as ILSVRC2012_val_00000001.png. beside"
    ):
        imagenet(tmp_path, 32)


def test_imagenet_needs_a_thousand_classes(tmp_path):
    for part in ("train", "val"):
        write_classes(tmp_path / part, ("n01440764", "n01443537"), 1)
    with pytest.raises(DataError, match=r"2 in train, 2 in val.*flat: sort them into folders"):
        imagenet(tmp_path, 32, **SUBSET)


@pytest.mark.parametrize(("version", "test"), [("v1", "val"), ("v2", "test")])
def test_afhq(tmp_path, version, test):
    write_classes(tmp_path / "train", ("cat", "dog", "wild"), 3)
    write_classes(tmp_path / test, ("cat", "dog", "wild"), 1)
    data = afhq(tmp_path, 16, version, **SUBSET, validation_fraction=0.34)
    assert data.class_names == ("cat", "dog", "wild")
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 3)
    assert data.name.startswith(f"AFHQ {version}, 16 x 16")
    total = {"v1": "14,630", "v2": "14,336"}[version]
    with pytest.raises(DataError, match=rf"by class 3, 3, 3, where .*\), but AFHQ .* has {total}"):
        afhq(tmp_path, 16, version)
    other = {"v1": "v2", "v2": "v1"}[version]
    with pytest.raises(DataError, match=rf"AFHQ {other} is expected as ROOT/train/cat, dog, wild"):
        afhq(tmp_path, 16, other, **SUBSET)


def test_ffhq(tmp_path):
    for number in (0, 1, 59_999, 60_000, 69_999):
        folder = tmp_path / "images1024x1024" / f"{number // 1000 * 1000:05}"
        picture(folder / f"{number:05}.png", number % 256)
    data = ffhq(tmp_path, 16, **SUBSET)
    assert values_of(data.train) == [0, 1, 59_999 % 256]
    assert values_of(data.test) == [60_000 % 256, 69_999 % 256]
    assert data.num_classes == 0
    assert labels_of(data.test) == [None, None]
    with pytest.raises(DataError, match=r"3 train images, but FFHQ has 60,000"):
        ffhq(tmp_path, 16)
    picture(tmp_path / "LICENSE.png")
    with pytest.raises(
        DataError, match=r"the name of .*LICENSE.png is not a number. FFHQ is expected"
    ):
        ffhq(tmp_path, 16, **SUBSET)


def test_a_part_may_not_be_empty(tmp_path):
    picture(tmp_path / "00000.png")
    with pytest.raises(DataError, match=r"there are no test images. FFHQ is expected"):
        ffhq(tmp_path, 16, **SUBSET)


@pytest.mark.parametrize(
    "read",
    [
        cifar10,
        lambda root: imagenet(root, 64),
        lambda root: imagenet64(root, "old"),
        lambda root: imagenet64(root, "new"),
        lambda root: afhq(root, 256),
        lambda root: ffhq(root, 256),
    ],
)
def test_missing_folders_and_files(tmp_path, read):
    layout = r"is expected as .*; or as what this makes of it: tarflow prepare data=\w+ "
    with pytest.raises(DataError, match=rf"there is no folder .*nowhere\. .*{layout}"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=layout):
        read(tmp_path)


def test_counts_by_class_are_compared():
    labels = np.repeat([0, 1, 2], [493, 492, 482])
    with pytest.raises(DataError, match=r"by class 493, 492, 482, where 493, 491, 483 are"):
        AFHQ["v2"].check("test", labels)
    AFHQ["v2"].check("test", np.repeat([0, 1, 2], [493, 491, 483]))
    with pytest.raises(DataError, match="there are 1,468 test images"):
        AFHQ["v2"].check("test", np.repeat([-1, 0, 1, 2], [1, 493, 491, 483]))


def test_prepared_folders_take_the_place_of_published_files(cifar, tmp_path):
    before = cifar10(cifar, **SUBSET, horizontal_flip=True)
    assert before.augment is mirror
    prepare(before, tmp_path / "prepared")
    after = cifar10(tmp_path / "prepared", **SUBSET)
    assert after.name == before.name
    assert after.class_names == before.class_names
    for part in ("train", "test"):
        read = list(zip(*getattr(after, part), strict=True))
        published = list(zip(*getattr(cifar10(cifar, **SUBSET), part), strict=True))
        assert torch.equal(torch.stack(read[0]), torch.stack(published[0]))
        assert read[1] == published[1]
    with pytest.raises(DataError, match="there are 20 train images, but CIFAR-10 has 50,000"):
        cifar10(tmp_path / "prepared")


def test_another_prepared_data_set_is_refused(cifar, tmp_path):
    prepare(cifar10(cifar, **SUBSET), tmp_path / "prepared")
    message = r"prepared holds CIFAR-10, .*\(3, 32, 32\); wanted is AFHQ v2 at 256 x 256"
    with pytest.raises(DataError, match=message):
        afhq(tmp_path / "prepared", 256, **SUBSET)


def test_sizes_of_a_prepared_data_set_are_told_apart(tmp_path):
    write_classes(tmp_path / "train", ("cat", "dog", "wild"), 1)
    write_classes(tmp_path / "test", ("cat", "dog", "wild"), 1)
    prepare(afhq(tmp_path, 16, **SUBSET), tmp_path / "prepared")
    assert afhq(tmp_path / "prepared", 16, **SUBSET).image_shape == (3, 16, 16)
    with pytest.raises(DataError, match=r"wanted is AFHQ v2 at 32 x 32"):
        afhq(tmp_path / "prepared", 32, **SUBSET)
    with pytest.raises(DataError, match=r"holds AFHQ v2, .*wanted is AFHQ v1"):
        afhq(tmp_path / "prepared", 16, "v1", **SUBSET)


def test_a_data_set_of_full_size_is_not_read_into_memory(tmp_path):
    """Files with holes in place of 15.7 GB of pixels: they take no room, and neither do we."""
    edition = IMAGENET64["old"]
    counts = {part: sum(numbers) for part, numbers in edition.counts.items()}
    for part, count in counts.items():
        path = tmp_path / f"{part}_images.npy"
        np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 64, 64))[-1] = 7
        np.save(tmp_path / f"{part}_labels.npy", np.full(count, -1))
    Description("arrays", edition.name, 256, 0, (3, 64, 64), (), counts, {}).write(tmp_path)
    before = resident()
    data = imagenet64(tmp_path, "old", validation_fraction=0.01, horizontal_flip=True)
    assert len(data.train) + len(data.validation) == 1_281_149
    batches = DataLoader(Subset(data.train, range(0, 1_000_000, 50_000)), 10, num_workers=1)
    assert sum(int(images.sum()) for images, _ in batches) == 0
    assert int(imagenet64(tmp_path, "old").train[1_281_148][0].sum()) == 7 * 3 * 64 * 64
    assert len(pickle.dumps(imagenet64(tmp_path, "old").train)) < 11_000_000
    assert resident() - before < 300_000_000


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
