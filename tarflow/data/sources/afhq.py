"""AFHQ, which was released twice.

The releases have 16,130 images and, with some 2 % removed, 15,803 (arXiv 1912.01865, 2106.12423).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import Edition, choose
from tarflow.registry import register


def _release(version: str, test: str, counts: Mapping[str, tuple[int, ...]]) -> Edition:
    """A release of AFHQ."""
    folders = f"ROOT/train/cat, dog, wild and ROOT/{test}/cat, dog, wild with images in each"
    choice = f"data=afhq data.data.version={version}"
    return Edition(f"AFHQ {version}", choice, folders, counts, 3)


AFHQ = {
    "v1": _release("v1", "val", {"train": (5_153, 4_739, 4_738), "test": (500, 500, 500)}),
    "v2": _release("v2", "test", {"train": (5_065, 4_678, 4_593), "test": (493, 491, 483)}),
}


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
    edition = choose(AFHQ, version)
    names = {"train": "train", "test": "val" if version == "v1" else "test"}
    read = partial(edition.read_class_folders, names=names, image_size=image_size)
    return edition.load(root, image_size, read, check_counts, validation_fraction, horizontal_flip)
