"""FFHQ; its numbers and its split are from github.com/NVlabs/ffhq-dataset."""

from functools import partial
from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import Edition
from tarflow.data.storage.image_files import ImageFiles, Samples
from tarflow.errors import DataError
from tarflow.registry import register

FFHQ = Edition(
    name="FFHQ",
    choice="data=ffhq data.data.image_size=256",
    layout="PNG files in ROOT or folders in it (images1024x1024/00000/00000.png ...), in order",
    counts={"train": (60_000,), "test": (10_000,)},
    num_classes=0,
)


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
        DataError: Files are missing, or have names other than numbers.
    """
    return FFHQ.load(
        root,
        image_size,
        partial(_read, image_size=image_size),
        check_counts,
        validation_fraction,
        horizontal_flip,
    )


def _read(folder: Path, image_size: int) -> ImageData:
    """Read the files; an image's number tells its part, so that a subset keeps the split."""
    chosen: dict[str, Samples] = {"train": [], "test": []}
    for path, label in FFHQ.list_images(folder):
        number = Path(path).stem
        if not number.isdecimal():
            raise DataError(f"the name of {path} is not a number. {FFHQ.help}")
        part = "train" if int(number) < sum(FFHQ.counts["train"]) else "test"
        chosen[part].append((path, label))
    parts = {part: ImageFiles(samples, image_size) for part, samples in chosen.items()}
    return FFHQ.assemble(parts, image_size, resized=True)
