"""Readers of published data sets, as their files were given out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from tarflow.data.images import UNLABELLED, ArrayDataset, ImageData
from tarflow.data.sources.editions import FFHQ, Edition
from tarflow.data.sources.image_folder import read_classes
from tarflow.data.storage.image_files import ImageFiles, Samples
from tarflow.data.storage.npz_batches import NpzBatches
from tarflow.errors import DataError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_ROW = 1 + 3 * 32 * 32
"""Bytes of an image: its label, then red, green and blue."""

RESIZED = "(shorter side resized with antialiasing, centre kept)"


def read_cifar10(edition: Edition, folder: Path) -> ImageData:
    """Read the binary version of CIFAR-10."""
    train = sorted(folder.glob("data_batch_*.bin")) or [folder / "data_batch_1.bin"]
    files = {"train": train, "test": [folder / "test_batch.bin"]}
    parts = {part: _read_rows(edition, paths) for part, paths in files.items()}
    return _data(edition, parts, 32, "as published", CIFAR10_CLASSES)


def read_class_folders(
    edition: Edition, folder: Path, names: Mapping[str, str], image_size: int
) -> ImageData:
    """Read a folder for each part, with a folder for each class."""
    read = {part: read_classes(folder / name, edition.help) for part, name in names.items()}
    classes, _ = read["train"]
    if len(classes) != edition.num_classes or read["test"][0] != classes:
        found = ", ".join(f"{len(found)} in {names[part]}" for part, (found, _) in read.items())
        raise DataError(
            f"{folder} has other classes than it should, or they differ: {found}. {edition.help}"
        )
    parts = {part: ImageFiles(samples, image_size) for part, (_, samples) in read.items()}
    how = f"{image_size} x {image_size} {RESIZED}"
    return _data(edition, parts, image_size, how, tuple(classes))


def read_downsampled(edition: Edition, folder: Path) -> ImageData:
    """Read the old version of ImageNet 64."""
    names = {"train": "train_64x64", "test": "valid_64x64"}
    listed = {part: _list_images(edition, folder / name) for part, name in names.items()}
    parts = {part: ImageFiles(samples, None) for part, samples in listed.items()}
    return _data(edition, parts, 64, "as published")


def read_npz_batches(edition: Edition, folder: Path) -> ImageData:
    """Read the new version of ImageNet 64."""
    found = {
        "train": list(folder.glob("train_data_batch_*.npz")),
        "test": list(folder.glob("val_data.npz")),
    }
    for part, paths in found.items():
        if not paths:
            raise DataError(f"{folder} has no files of the {part} part. {edition.help}")
        paths.sort(key=lambda path: (len(path.name), path.name))  # 10 comes after 9
    parts = {part: NpzBatches(paths, 64) for part, paths in found.items()}
    return _data(edition, parts, 64, "as published")


def read_ffhq(edition: Edition, folder: Path, image_size: int) -> ImageData:
    """Read FFHQ; an image's number tells its part, so that a subset keeps the split."""
    chosen: dict[str, Samples] = {"train": [], "test": []}
    for path, label in _list_images(edition, folder):
        number = Path(path).stem
        if not number.isdecimal():
            raise DataError(f"{path} has no number for a name. {edition.help}")
        part = "train" if int(number) < sum(FFHQ.counts["train"]) else "test"
        chosen[part].append((path, label))
    parts = {part: ImageFiles(samples, image_size) for part, samples in chosen.items()}
    return _data(edition, parts, image_size, f"{image_size} x {image_size} {RESIZED}")


def _data(
    edition: Edition,
    parts: Mapping[str, Dataset],
    image_size: int,
    how: str,
    class_names: tuple[str, ...] = (),
) -> ImageData:
    """Put parts together."""
    return ImageData(
        name=f"{edition.name}, {how}, split as published",
        train=parts["train"],
        validation=None,
        test=parts["test"],
        levels=256,
        num_classes=edition.num_classes,
        image_shape=(3, image_size, image_size),
        class_names=class_names,
    )


def _list_images(edition: Edition, folder: Path) -> Samples:
    """Paths of all PNG files in order, without labels."""
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    if not paths:
        raise DataError(f"there is no .png file in {folder}. {edition.help}")
    return [(str(path), UNLABELLED) for path in paths]


def _read_rows(edition: Edition, paths: list[Path]) -> ArrayDataset:
    """Read files of rows: a label, then an image, channel by channel."""
    content = []
    for path in paths:
        size = path.stat().st_size if path.is_file() else 0
        if not size or size % CIFAR10_ROW:
            problem = (
                f"has {size} bytes, not a multiple of {CIFAR10_ROW}" if size else "is missing"
            )
            raise DataError(f"{path} {problem}. {edition.help}")
        content.append(np.fromfile(path, np.uint8).reshape(-1, CIFAR10_ROW))
    table = np.concatenate(content)
    labels = table[:, 0].astype(np.int64)
    if labels.max() >= edition.num_classes:
        raise DataError(f"{paths[0].parent} has the label {labels.max()}. {edition.help}")
    images = np.ascontiguousarray(table[:, 1:]).reshape(-1, 3, 32, 32)
    return ArrayDataset(torch.from_numpy(images), torch.from_numpy(labels))
