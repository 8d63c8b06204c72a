"""ImageNet as published at 64 x 64 pixels.

Numbers of images: the older version (arXiv 1601.06759) from TensorFlow's catalogue
(`downsampled_imagenet`); the box-downsampled one from arXiv 1707.08819 (the catalogue has the
same for `imagenet_resized`).
"""

from functools import partial
from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import Edition, choose
from tarflow.data.storage.image_files import ImageFiles
from tarflow.data.storage.npz_batches import NpzBatches
from tarflow.errors import DataError
from tarflow.registry import register

IMAGENET64 = {
    "old": Edition(
        name="ImageNet 64, old version (arXiv 1601.06759)",
        choice="data=imagenet64 data.data.version=old",
        layout="ROOT/train_64x64/*.png and ROOT/valid_64x64/*.png, of 64 x 64 pixels",
        counts={"train": (1_281_149,), "test": (49_999,)},
        num_classes=0,
    ),
    "new": Edition(
        name="ImageNet 64, new version (box-downsampled, arXiv 1707.08819)",
        choice="data=imagenet64 data.data.version=new",
        layout="ROOT/train_data_batch_1.npz ... train_data_batch_10.npz and ROOT/val_data.npz",
        counts={"train": (1_281_167,), "test": (50_000,)},
        num_classes=1_000,
    ),
}


@register
def imagenet64(
    root: str | Path,
    version: str,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """ImageNet as published at 64 x 64 pixels, of which there are two versions.

    `old` (van den Oord et al. 2016) has no labels; TarFlow's 2.99 bits/dim are of it. `new`
    (Chrabaszcz et al. 2017) is what the ImageNet site has given out since 2021; it is smoother: at
    32 x 32 one model reaches 3.69 bits/dim on the old and 3.43 on the new (arXiv 2305.03935).

    Args:
        root: The folder of the files, or a prepared one.
        version: `old` or `new`.
        check_counts: Whether to refuse a subset.
        validation_fraction: Fraction of the training images that is set aside to choose by.
        horizontal_flip: Whether to mirror training images at random; no others are.

    Raises:
        DataError: The version is unknown, or files are missing, damaged or incomplete.
    """
    edition = choose(IMAGENET64, version)
    read = {"old": _read_pictures, "new": _read_batches}[version]
    return edition.load(
        root, 64, partial(read, edition), check_counts, validation_fraction, horizontal_flip
    )


def _read_pictures(edition: Edition, folder: Path) -> ImageData:
    """Read the old version."""
    names = {"train": "train_64x64", "test": "valid_64x64"}
    listed = {part: edition.list_images(folder / name) for part, name in names.items()}
    parts = {part: ImageFiles(samples, None) for part, samples in listed.items()}
    return edition.assemble(parts, 64)


def _read_batches(edition: Edition, folder: Path) -> ImageData:
    """Read the new version."""
    found = {
        "train": list(folder.glob("train_data_batch_*.npz")),
        "test": list(folder.glob("val_data.npz")),
    }
    for part, paths in found.items():
        if not paths:
            raise DataError(f"{folder} has no files of the {part} part. {edition.help}")
        paths.sort(key=lambda path: (len(path.name), path.name))  # 10 comes after 9
    parts = {part: NpzBatches(paths, 64) for part, paths in found.items()}
    return edition.assemble(parts, 64)
