"""WebDataset shards of any origin."""

from pathlib import Path

from tarflow.data.images import ImageData, count_classes
from tarflow.data.loading.splits import GIVEN_SPLIT
from tarflow.data.storage.tar_images import read_part
from tarflow.flows.codec import Pixels
from tarflow.registry import register


@register
def tar_shards(
    root: str | Path,
    image_size: int,
    num_channels: int = 3,
    train: str = "train-*.tar",
    test: str = "test-*.tar",
    validation: str | None = None,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
    num_classes: int | None = None,
) -> ImageData:
    """Read WebDataset shards of any origin; those of `tarflow prepare` tell more by themselves.

    An index is made at the first reading and kept beside the shards where that can be written.
    The other arguments are those of `image_folder`.

    Args:
        root: The folder of the shards.
        train: Pattern of the names of shards with training images.
        test: Pattern of the names of shards with images to report on.
        validation: Pattern of the names of shards with images to choose by, if there are any.
        num_classes: Number of classes; by default, one more than the largest label, and labels
            that leave a class without a training image are refused.

    Raises:
        DataError: Shards are missing, damaged or of another layout.
    """
    folder = Path(root).expanduser()
    patterns = {"train": train, "test": test} | ({"val": validation} if validation else {})
    parts = {
        part: read_part(folder, pattern, image_size, num_channels)
        for part, pattern in patterns.items()
    }
    labels = {part: dataset.labels for part, dataset in parts.items()}
    data = ImageData.of(
        f"{folder.resolve()} ({train}, {test}), {GIVEN_SPLIT}",
        parts,
        codec=Pixels(256),
        num_classes=count_classes(labels, num_classes, str(folder)),
        image_shape=(num_channels, image_size, image_size),
    )
    return data.for_training(validation_fraction, horizontal_flip)
