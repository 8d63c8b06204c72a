"""Published data sets, read as they are published or as `tarflow prepare` left them.

Every function checks numbers of images and their shape, and names the version in `ImageData.name`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tarflow.data import editions
from tarflow.data.editions import Edition
from tarflow.data.folder import read_classes
from tarflow.data.image_files import ImageFiles, Samples
from tarflow.data.images import UNLABELLED, ArrayDataset, ImageData
from tarflow.data.npz_batches import NpzBatches
from tarflow.data.prepared import META, read_prepared
from tarflow.data.training_part import with_training_part
from tarflow.errors import DataError

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR10_ROW = 1 + 3 * 32 * 32
"""Bytes of an image: its label, then red, green and blue."""

NUM_FFHQ_TRAIN = sum(editions.FFHQ.counts["train"])


def cifar10(
    root: str | Path,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """CIFAR-10: 32 x 32 pixels, ten classes, 50,000 and 10,000 images.

    Args:
        root: The folder `cifar-10-batches-bin`, or a prepared one.
        check_counts: Whether to refuse a subset.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: Files are missing, damaged or incomplete.
    """
    edition, folder = editions.CIFAR10, _folder(root, editions.CIFAR10)
    data = _prepared(edition, folder, 32)
    if data is None:
        train = [path for path in sorted(folder.glob("data_batch_*.bin"))]
        parts = {"train": _read_cifar10(train), "test": _read_cifar10([folder / "test_batch.bin"])}
        data = _data(edition, parts, 32, tuple(CIFAR10_CLASSES), "as published")
    return _checked(edition, data, check_counts, validation_fraction, horizontal_flip)


def imagenet(
    root: str | Path,
    image_size: int,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """ImageNet (ILSVRC 2012) from its pictures: 1,000 classes, 1,281,167 and 50,000 images.

    The published validation images are the `test` part: those to report on.

    Args:
        root: The folder of `train` and `val`, or a prepared one.
        image_size: Height and width to bring images to: the shorter side is resized, with
            antialiasing, and the centre is kept.
        check_counts: Whether to refuse a subset.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: Folders are missing or incomplete.
    """
    edition, folder = editions.IMAGENET, _folder(root, editions.IMAGENET)
    data = _prepared(edition, folder, image_size)
    if data is None:
        data = _class_folders(edition, folder, {"train": "train", "test": "val"}, image_size)
    return _checked(edition, data, check_counts, validation_fraction, horizontal_flip)


def imagenet64(
    root: str | Path,
    version: str,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """ImageNet as published at 64 x 64 pixels, of which there are two versions.

    `old` (van den Oord et al. 2016) has no labels, and is what likelihoods up to 2021 and TarFlow's
    2.99 bits/dim are of. `new` (Chrabaszcz et al. 2017) is what the ImageNet site has given out
    since; it is smoother: one model has 3.69 bits/dim on one and 3.43 on the other.

    Args:
        root: The folder of the files, or a prepared one.
        version: `old` or `new`.
        check_counts: Whether to refuse a subset.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: The version is unknown, or files are missing, damaged or incomplete.
    """
    edition = _edition(editions.IMAGENET64, version)
    folder = _folder(root, edition)
    data = _prepared(edition, folder, 64)
    if data is None:
        read = _read_npz if version == "new" else _read_old
        data = _data(edition, read(edition, folder), 64, (), "as published")
    return _checked(edition, data, check_counts, validation_fraction, horizontal_flip)


def afhq(
    root: str | Path,
    image_size: int,
    version: str = "v2",
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """AFHQ: faces of cats, dogs and wild animals; v1 has 16,130 images, v2 15,803 sharper ones.

    Args:
        root: The folder of `train` and `test` (v1: `val`), or a prepared one.
        image_size: Height and width to bring images to.
        version: `v1` or `v2`.
        check_counts: Whether to refuse a subset.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: The version is unknown, or folders are missing or incomplete.
    """
    edition = _edition(editions.AFHQ, version)
    folder = _folder(root, edition)
    data = _prepared(edition, folder, image_size)
    if data is None:
        parts = {"train": "train", "test": "val" if version == "v1" else "test"}
        data = _class_folders(edition, folder, parts, image_size)
    return _checked(edition, data, check_counts, validation_fraction, horizontal_flip)


def ffhq(
    root: str | Path,
    image_size: int,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """FFHQ: 70,000 faces without labels; the last 10,000 are its validation images, here `test`.

    Args:
        root: The folder of the files, or a prepared one.
        image_size: Height and width to bring images to.
        check_counts: Whether to refuse a subset.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: Files are missing.
    """
    edition, folder = editions.FFHQ, _folder(root, editions.FFHQ)
    data = _prepared(edition, folder, image_size)
    if data is None:
        samples = _list_images(edition, folder)
        # The split goes by the number in a file's name, so that a subset keeps it.
        train = [sample for sample in samples if int(Path(sample[0]).stem) < NUM_FFHQ_TRAIN]
        chosen = {"train": train, "test": [sample for sample in samples if sample not in train]}
        parts = {part: ImageFiles(images, image_size) for part, images in chosen.items()}
        data = _data(edition, parts, image_size, (), f"{image_size} x {image_size}")
    return _checked(edition, data, check_counts, validation_fraction, horizontal_flip)


def _edition(versions: Mapping[str, Edition], version: str) -> Edition:
    """Look a version up."""
    if version not in versions:
        raise DataError(f"version {version} is unknown: choose {' or '.join(versions)}")
    return versions[version]


def _folder(root: str | Path, edition: Edition) -> Path:
    """The folder, if there is one."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}. {edition.help}")
    return folder


def _prepared(edition: Edition, folder: Path, image_size: int) -> ImageData | None:
    """Read a prepared folder, if it is one."""
    if not (folder / META).exists():
        return None
    data = read_prepared(folder)
    if not data.name.startswith(edition.name) or data.image_shape[1:] != (image_size, image_size):
        raise DataError(
            f"{folder} holds {data.name}, of shape {data.image_shape}; wanted is {edition.name} at"
            f" {image_size} x {image_size}: give another data.data.root. {edition.help}"
        )
    return data


def _data(
    edition: Edition,
    parts: Mapping[str, Dataset],
    image_size: int,
    class_names: tuple[str, ...],
    how: str,
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


def _checked(
    edition: Edition,
    data: ImageData,
    check_counts: bool,
    validation_fraction: float,
    horizontal_flip: bool,
) -> ImageData:
    """Check numbers and shape, then set images aside and mirror."""
    parts: dict[str, Any] = {"train": data.train, "test": data.test}
    for part, dataset in parts.items():
        if check_counts and not (part == "train" and data.validation is not None):
            edition.check(part, dataset.labels)
        if not len(dataset):
            raise DataError(f"there are no {part} images. {edition.help}")
        shape = tuple(dataset[0][0].shape)
        if shape != data.image_shape:
            raise DataError(f"images are of shape {shape}, not {data.image_shape}. {edition.help}")
    return with_training_part(data, validation_fraction, horizontal_flip)


def _class_folders(
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
    how = f"{image_size} x {image_size} (shorter side resized with antialiasing, centre kept)"
    return _data(edition, parts, image_size, tuple(classes), how)


def _list_images(edition: Edition, folder: Path) -> Samples:
    """Paths of all PNG files in order, without labels."""
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    if not paths:
        raise DataError(f"there is no .png file in {folder}. {edition.help}")
    return [(str(path), UNLABELLED) for path in paths]


def _read_old(edition: Edition, folder: Path) -> dict[str, ImageFiles]:
    """Read the old version of ImageNet 64."""
    names = {"train": "train_64x64", "test": "valid_64x64"}
    return {
        part: ImageFiles(_list_images(edition, folder / name), 64) for part, name in names.items()
    }


def _read_npz(edition: Edition, folder: Path) -> dict[str, NpzBatches]:
    """Read the new version of ImageNet 64."""
    found = {"train": list(folder.glob("train_data_batch_*.npz")), "test": [folder / "val_data.npz"]}
    for part, paths in found.items():
        if not paths or not all(path.is_file() for path in paths):
            raise DataError(f"{folder} lacks files of the {part} part. {edition.help}")
        paths.sort(key=lambda path: (len(path.name), path.name))  # 10 comes after 9
    return {part: NpzBatches(paths, 64) for part, paths in found.items()}


def _read_cifar10(paths: list[Path]) -> ArrayDataset:
    """Read files of rows: a label, then an image, channel by channel."""
    edition = editions.CIFAR10
    if not paths or not all(path.is_file() for path in paths):
        raise DataError(f"there is no {paths[0] if paths else 'data_batch_1.bin'}. {edition.help}")
    content = []
    for path in paths:
        rows = np.fromfile(path, np.uint8)
        if len(rows) % CIFAR10_ROW or not len(rows):
            raise DataError(
                f"{path} has {len(rows)} bytes, not a multiple of {CIFAR10_ROW}. {edition.help}"
            )
        content.append(rows.reshape(-1, CIFAR10_ROW))
    table = np.concatenate(content)
    if table[:, 0].max() >= edition.num_classes:
        raise DataError(f"{paths[0].parent} has the label {table[:, 0].max()}. {edition.help}")
    images = torch.from_numpy(table[:, 1:].reshape(-1, 3, 32, 32))
    return ArrayDataset(images, torch.from_numpy(table[:, 0].astype(np.int64)))
