"""Published data sets, read as they are published or as `tarflow prepare` left them.

Every function checks numbers of images and their shape, and names the version in `ImageData.name`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tarflow.data.images import ImageData
from tarflow.data.loading.training_part import with_training_part
from tarflow.data.sources import editions, published_files
from tarflow.data.sources.editions import Edition
from tarflow.data.storage.prepared import META, read_prepared
from tarflow.errors import DataError
from tarflow.registry import register

Reader = Callable[[Edition, Path], ImageData]


@register
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
    data = _read(editions.CIFAR10, root, 32, published_files.read_cifar10, check_counts)
    return with_training_part(data, validation_fraction, horizontal_flip)


@register
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
    names = {"train": "train", "test": "val"}
    read = partial(published_files.read_class_folders, names=names, image_size=image_size)
    data = _read(editions.IMAGENET, root, image_size, read, check_counts)
    return with_training_part(data, validation_fraction, horizontal_flip)


@register
def imagenet64(
    root: str | Path,
    version: str,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """ImageNet as published at 64 x 64 pixels, of which there are two versions.

    `old` (van den Oord et al. 2016) has no labels; TarFlow's 2.99 bits/dim are of it. `new`
    (Chrabaszcz et al. 2017) is what the ImageNet site has given out since 2021; it is smoother: at
    32 x 32 one model reaches 3.69 bits/dim on the old and 3.43 on the new (arXiv 2305.03935).

    Args:
        root: The folder of the files, or a prepared one.
        version: `old` or `new`.
        check_counts: Whether to refuse a subset.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: The version is unknown, or files are missing, damaged or incomplete.
    """
    readers = {"old": published_files.read_downsampled, "new": published_files.read_npz_batches}
    edition = _edition(editions.IMAGENET64, version)
    data = _read(edition, root, 64, readers[version], check_counts)
    return with_training_part(data, validation_fraction, horizontal_flip)


@register
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
    names = {"train": "train", "test": "val" if version == "v1" else "test"}
    read = partial(published_files.read_class_folders, names=names, image_size=image_size)
    data = _read(edition, root, image_size, read, check_counts)
    return with_training_part(data, validation_fraction, horizontal_flip)


@register
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
        DataError: Files are missing, or have no numbers for names.
    """
    read = partial(published_files.read_ffhq, image_size=image_size)
    data = _read(editions.FFHQ, root, image_size, read, check_counts)
    return with_training_part(data, validation_fraction, horizontal_flip)


def _edition(versions: Mapping[str, Edition], version: str) -> Edition:
    """Look a version up."""
    if version not in versions:
        raise DataError(f"version {version} is unknown: choose {' or '.join(versions)}")
    return versions[version]


def _read(
    edition: Edition, root: str | Path, image_size: int, read: Reader, check_counts: bool
) -> ImageData:
    """Read a folder, as published or prepared, and check what is in it."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}. {edition.help}")
    prepared = (folder / META).exists()
    data = read_prepared(folder) if prepared else read(edition, folder)
    if not data.name.startswith(edition.name) or data.image_shape != (3, image_size, image_size):
        raise DataError(
            f"{folder} holds {data.name}, of shape {data.image_shape}; wanted is {edition.name} at"
            f" {image_size} x {image_size}: give another data.data.root. {edition.help}"
        )
    _check(edition, data, check_counts)
    return data


def _check(edition: Edition, data: ImageData, check_counts: bool) -> None:
    """Check numbers of images, and the shape of the first."""
    parts: dict[str, Any] = {"train": data.train, "test": data.test}
    for part, dataset in parts.items():
        set_aside = part == "train" and data.validation is not None
        if check_counts and not set_aside:
            edition.check(part, dataset.labels)
        if not len(dataset):
            raise DataError(f"there are no {part} images. {edition.help}")
        shape = tuple(dataset[0][0].shape)
        if shape != data.image_shape:
            raise DataError(f"images are of shape {shape}, not {data.image_shape}. {edition.help}")
