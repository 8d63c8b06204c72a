"""ImageNet, from its pictures; numbers of images are from arXiv 1409.0575."""

from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import ClassFolders
from tarflow.registry import register

IMAGENET = ClassFolders(
    name="ImageNet (ILSVRC 2012)",
    choice="data=imagenet data.data.image_size=64",
    layout=(
        "ROOT/train/CLASS/IMAGE and ROOT/val/CLASS/IMAGE with a folder for each of 1,000 classes"
        " (the archive of validation images is flat: sort them into folders by their labels)"
    ),
    counts={"train": (1_281_167,), "test": (50_000,)},
    num_classes=1_000,
    test_folder="val",
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

    The published validation images are the `test` part: those to report on. The other arguments
    are those of `image_folder`.

    Args:
        root: The folder of the files as published, or a prepared one.
        check_counts: Whether to refuse a subset.

    Raises:
        DataError: Folders are missing or incomplete.
    """
    data = IMAGENET.load(root, image_size, check_counts)
    return data.for_training(validation_fraction, horizontal_flip)
