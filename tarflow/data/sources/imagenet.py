"""ImageNet, from its pictures; numbers of images are from arXiv 1409.0575."""

from functools import partial
from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import Edition
from tarflow.registry import register

IMAGENET = Edition(
    name="ImageNet (ILSVRC 2012)",
    choice="data=imagenet data.data.image_size=64",
    layout=(
        "ROOT/train/CLASS/IMAGE and ROOT/val/CLASS/IMAGE with a folder for each of 1,000 classes"
        " (the archive of validation images is flat: sort them into folders by their labels)"
    ),
    counts={"train": (1_281_167,), "test": (50_000,)},
    num_classes=1_000,
)


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
    read = partial(IMAGENET.read_class_folders, names=names, image_size=image_size)
    return IMAGENET.load(
        root, image_size, read, check_counts, validation_fraction, horizontal_flip
    )
