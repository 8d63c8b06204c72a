"""A folder of images with a subfolder for each class."""

from pathlib import Path

from tarflow.arguments import check_integer
from tarflow.data.images import ImageData
from tarflow.data.loading.splits import GIVEN_SPLIT, MADE_SPLIT, complete_parts
from tarflow.data.storage.image_files import ImageFiles, Samples, read_classes
from tarflow.errors import DataError
from tarflow.flows.codec import Pixels
from tarflow.registry import register

LAYOUT = (
    "the layout is ROOT/CLASS/IMAGE with a folder for each class, or ROOT/train/CLASS/IMAGE and"
    " ROOT/test/CLASS/IMAGE, if you like with ROOT/val/CLASS/IMAGE, for a split of your own"
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
) -> ImageData:
    """Read a folder with a subfolder for each class.

    Where the folder holds `train` and `test` (and perhaps `val`), these are the parts; else a
    stratified split is made, the same at every call as long as the files keep their names.

    Args:
        root: The folder.
        image_size: Height and width to bring images to: the shorter side is resized, with
            antialiasing, and the centre is kept.
        num_channels: 1 converts images to grey, 3 to colour.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        test_fraction: Fraction of all images that is held out, if there is no `test` folder.
        horizontal_flip: Whether to mirror training images at random; no others are.
        verify: Whether to decode every image once now, rather than fail in mid-training.

    Raises:
        DataError: The folder is missing or of another layout, an image cannot be decoded, or an
            argument is out of range.
    """
    check_integer("image_size", image_size, 1, DataError)
    folder = Path(root).expanduser()
    classes, given = _read_parts(folder)
    if verify:
        everything = [sample for samples in given.values() for sample in samples]
        ImageFiles(everything, image_size, num_channels).verify()
    read = {part: ImageFiles(few, image_size, num_channels) for part, few in given.items()}
    parts = complete_parts(read, read["train"].labels, test_fraction, validation_fraction)
    data = ImageData.of(
        f"{folder.resolve()}, {GIVEN_SPLIT if 'test' in given else MADE_SPLIT}",
        parts,
        codec=Pixels(256),
        num_classes=len(classes),
        image_shape=(num_channels, image_size, image_size),
        class_names=tuple(classes),
    )
    return data.for_training(0.0, horizontal_flip)


def _read_parts(folder: Path) -> tuple[list[str], dict[str, Samples]]:
    """List the classes, and the files of each part; all files are `train` without parts."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: {LAYOUT}")
    train = folder / "train"
    # a folder "train" that holds images, not folders, is a class: railways have one
    if not train.is_dir() or not any(path.is_dir() for path in train.iterdir()):
        classes, samples = read_classes(folder, LAYOUT)
        return classes, {"train": samples}
    if not (folder / "test").is_dir():
        raise DataError(
            f"{folder} holds train but not test: name the images to report on test, or pass"
            f" {train} to have them taken out of it; {LAYOUT}"
        )
    names = [name for name in ("train", "val", "test") if (folder / name).is_dir()]
    read = {name: read_classes(folder / name, LAYOUT) for name in names}
    classes = read["train"][0]
    for name, (found, _) in read.items():
        if found != classes:
            differing = sorted(set(classes).symmetric_difference(found))
            raise DataError(
                f"{folder / name} and {train} differ in the classes {', '.join(differing)}:"
                " every part needs a folder for every class"
            )
    return classes, {name: samples for name, (_, samples) in read.items()}
