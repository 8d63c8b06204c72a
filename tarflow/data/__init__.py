"""Data sets, and the LightningDataModule that batches them."""

from typing import TYPE_CHECKING

from tarflow.data.divided_data import DividedData
from tarflow.data.images import ArrayDataset, ImageData
from tarflow.data.loading.augmentation import mirror
from tarflow.data.loading.batches import Batch, read_batch
from tarflow.data.sources.afhq import afhq
from tarflow.data.sources.arrays import arrays
from tarflow.data.sources.cifar10 import cifar10
from tarflow.data.sources.digits import digits
from tarflow.data.sources.ffhq import ffhq
from tarflow.data.sources.image_folder import image_folder
from tarflow.data.sources.imagenet import imagenet
from tarflow.data.sources.imagenet64 import imagenet64
from tarflow.data.sources.latents import latents
from tarflow.data.sources.maf_table import maf_table
from tarflow.data.sources.memory_mapped import memory_mapped
from tarflow.data.sources.photographs import photographs
from tarflow.data.sources.random_images import random_images
from tarflow.data.sources.table import table
from tarflow.data.sources.tar_shards import tar_shards
from tarflow.data.storage.formats import Arrays, Shards
from tarflow.data.storage.latent_preparation import prepare_latents
from tarflow.data.storage.preparation import prepare
from tarflow.data.table_data import Rows, TableData

if TYPE_CHECKING:
    from tarflow.data.loading.datamodule import DataModule, ImageDataModule, TableDataModule

__all__ = [
    "ArrayDataset",
    "Arrays",
    "Batch",
    "DataModule",
    "DividedData",
    "ImageData",
    "ImageDataModule",
    "Rows",
    "Shards",
    "TableData",
    "TableDataModule",
    "afhq",
    "arrays",
    "cifar10",
    "digits",
    "ffhq",
    "image_folder",
    "imagenet",
    "imagenet64",
    "latents",
    "maf_table",
    "memory_mapped",
    "mirror",
    "photographs",
    "prepare",
    "prepare_latents",
    "random_images",
    "read_batch",
    "table",
    "tar_shards",
]


def __getattr__(name: str):
    """Import lightning only when a data module is asked for; it takes seconds."""
    if name not in ("DataModule", "ImageDataModule", "TableDataModule"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tarflow.data.loading import datamodule

    return getattr(datamodule, name)
