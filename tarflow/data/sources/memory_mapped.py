"""What `tarflow prepare` wrote."""

from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.loading.training_part import with_training_part
from tarflow.data.storage.prepared import read_prepared
from tarflow.registry import register


@register
def memory_mapped(
    root: str | Path,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
    verify: bool = False,
) -> ImageData:
    """Read a folder that `tarflow prepare` wrote, in either format.

    Arrays are mapped to memory: processes share what they read, and none holds all of it.

    Args:
        root: The folder.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.
        verify: Whether to read everything once now, and compare it with the hash.

    Raises:
        DataError: The folder is missing, incomplete or damaged.
    """
    data = read_prepared(Path(root).expanduser(), verify)
    return with_training_part(data, validation_fraction, horizontal_flip)
