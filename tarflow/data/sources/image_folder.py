"""A folder of images with a subfolder for each class."""

from collections.abc import Iterable
from pathlib import Path

from tarflow.arguments import check_integer
from tarflow.data.images import ImageData, count_classes
from tarflow.data.loading.splits import GIVEN_SPLIT, NAMED_SPLIT, complete_parts_by_name
from tarflow.data.storage.image_files import ImageFiles
from tarflow.data.storage.picture_folder import PictureFolder, PicturePart
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.registry import register

LAYOUT = (
    "the layout is ROOT/CLASS/IMAGE with a folder for each class, or ROOT/train/CLASS/IMAGE and"
    " ROOT/test/CLASS/IMAGE, if you like with ROOT/val/CLASS/IMAGE, for a split of your own;"
    " without classes, leave the folders CLASS out"
)


@register
def image_folder(
    root: str | Path,
    image_size: int,
    num_channels: int = 3,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.1,
    horizontal_flip: bool = False,
    verify: bool = True,
    num_classes: int | None = None,
) -> ImageData:
    """Read a folder with a subfolder for each class.

    Parts are folders, or else follow from the names of files alone; `docs/data.md` has the rules.

    Args:
        root: The folder.
        image_size: Height and width to bring images to: the shorter side is resized, with
            antialiasing, and the centre is kept.
        num_channels: 1 converts images to grey, 3 to colour.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        test_fraction: Fraction of all images, on average, that is held out if there is no
            `test` folder.
        horizontal_flip: Whether to mirror training images at random; no others are.
        verify: Whether to decode every image once now, rather than fail in mid-training.
        num_classes: Number of classes, where a `dataset.json` leaves some without images.

    Raises:
        DataError: The folder is missing or of another layout, an image cannot be decoded, or an
            argument is out of range.
    """
    check_integer("image_size", image_size, 1, DataError)
    found = PictureFolder(Path(root).expanduser(), LAYOUT)
    if verify:
        everything = [sample for part in found.parts.values() for sample in part.samples]
        ImageFiles(everything, image_size, num_channels).verify()
    given = found.parts.items()
    read = {name: ImageFiles(part.samples, image_size, num_channels) for name, part in given}
    train = found.parts["train"]
    parts = complete_parts_by_name(read, train.names, test_fraction, validation_fraction)
    _check_trained(train, parts["train"].indices)
    labels = {name: part.labels for name, part in read.items()}
    data = ImageData.of(
        f"{found.folder.resolve()}, {GIVEN_SPLIT if 'test' in read else NAMED_SPLIT}",
        parts,
        codec=Pixels(256),
        num_classes=count_classes(labels, num_classes, str(found.folder)),
        image_shape=(num_channels, image_size, image_size),
        class_names=train.class_names,
    )
    return data.for_training(0.0, horizontal_flip)


def _check_trained(part: PicturePart, indices: Iterable[int]) -> None:
    """Refuse a class of which all pictures are held out: it would be sampled, yet not trained."""
    left = {part.labels[index] for index in indices}
    missing = sorted(set(part.labels) - left)
    if missing:
        name = part.class_names[missing[0]] if part.class_names else missing[0]
        raise DataError(
            f"class {name} has no image to train on: all of them"
            f" ({part.labels.count(missing[0])}) are held out, since their names tell which are;"
            " add some, choose a smaller test_fraction or validation_fraction, or remove the class"
        )
