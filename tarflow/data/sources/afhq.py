"""AFHQ, which was released twice.

The releases have 16,130 images and, with some 2 % removed, 15,803 (arXiv 1912.01865, 2106.12423).
"""

from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import ClassFolders, choose
from tarflow.registry import register


def _release(version: str, test: str, counts: dict[str, tuple[int, ...]]) -> ClassFolders:
    """A release of AFHQ."""
    folders = f"ROOT/train/cat, dog, wild and ROOT/{test}/cat, dog, wild with images in each"
    choice = f"data=afhq data.data.version={version}"
    return ClassFolders(f"AFHQ {version}", choice, folders, counts, 3, test)


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

    The arguments besides the version, `v1` or `v2`, are those of `imagenet`.

    Raises:
        DataError: The version is unknown, or folders are missing or incomplete.
    """
    data = choose(AFHQ, version).load(root, image_size, check_counts)
    return data.for_training(validation_fraction, horizontal_flip)
