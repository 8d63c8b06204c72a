"""Data sets of images with labels, and the LightningDataModule that batches them."""

from typing import TYPE_CHECKING

from tarflow.data.arrays import arrays
from tarflow.data.digits import digits
from tarflow.data.folder import image_folder
from tarflow.data.images import ArrayDataset, ImageData

if TYPE_CHECKING:
    from tarflow.data.datamodule import ImageDataModule

__all__ = ["ArrayDataset", "ImageData", "ImageDataModule", "arrays", "digits", "image_folder"]


def __getattr__(name: str):
    """Import lightning only when its data module is asked for; it takes seconds."""
    if name != "ImageDataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tarflow.data.datamodule import ImageDataModule

    return ImageDataModule
