"""Data sets of images with labels, and the LightningDataModule that batches them."""

from typing import TYPE_CHECKING

from tarflow.data.images import ArrayDataset, ImageData
from tarflow.data.sources.arrays import arrays
from tarflow.data.sources.digits import digits
from tarflow.data.sources.image_folder import image_folder
from tarflow.data.sources.photographs import photographs
from tarflow.data.sources.published_sets import afhq, cifar10, ffhq, imagenet, imagenet64
from tarflow.data.sources.random_images import random_images
from tarflow.data.sources.tar_shards import tar_shards
from tarflow.data.storage.preparation import Arrays, Shards, prepare
from tarflow.data.storage.prepared import memory_mapped

if TYPE_CHECKING:
    from tarflow.data.loading.datamodule import ImageDataModule

__all__ = [
    "ArrayDataset",
    "Arrays",
    "ImageData",
    "ImageDataModule",
    "Shards",
    "afhq",
    "arrays",
    "cifar10",
    "digits",
    "ffhq",
    "image_folder",
    "imagenet",
    "imagenet64",
    "memory_mapped",
    "photographs",
    "prepare",
    "random_images",
    "tar_shards",
]


def __getattr__(name: str):
    """Import lightning only when its data module is asked for; it takes seconds."""
    if name != "ImageDataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tarflow.data.loading.datamodule import ImageDataModule

    return ImageDataModule
