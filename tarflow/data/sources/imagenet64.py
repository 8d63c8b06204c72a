"""ImageNet as published at 64 x 64 pixels.

Numbers of images: the older version (arXiv 1601.06759) from TensorFlow's catalogue
(`downsampled_imagenet`); the box-downsampled one from arXiv 1707.08819 (the catalogue has the
same for `imagenet_resized`).
"""

from pathlib import Path

from tarflow.data.images import ImageData
from tarflow.data.sources.editions import Edition, choose
from tarflow.data.storage.image_files import ImageFiles
from tarflow.data.storage.npz_batches import NpzBatches
from tarflow.errors import DataError
from tarflow.registry import register


class PicturesOfParts(Edition):
    """The old version: a folder of PNG files for each part."""

    def read(self, folder: Path, image_size: int) -> ImageData:
        names = {"train": "train_64x64", "test": "valid_64x64"}
        listed = {part: self.list_images(folder / name) for part, name in names.items()}
        parts = {part: ImageFiles(samples, None) for part, samples in listed.items()}
        return self.assemble(parts, image_size)


class BatchesOfParts(Edition):
    """The new version: .npz files."""

    def read(self, folder: Path, image_size: int) -> ImageData:
        patterns = {"train": "train_data_batch_*.npz", "test": "val_data.npz"}
        found = {part: list(folder.glob(pattern)) for part, pattern in patterns.items()}
        for part, paths in found.items():
            if not paths:
                raise DataError(f"{folder} has no files of the {part} part. {self.help}")
            paths.sort(key=lambda path: (len(path.name), path.name))  # 10 comes after 9
        parts = {part: NpzBatches(paths, image_size) for part, paths in found.items()}
        return self.assemble(parts, image_size)


IMAGENET64 = {
    "old": PicturesOfParts(
        name="ImageNet 64, old version (arXiv 1601.06759)",
        choice="data=imagenet64 data.data.version=old",
        layout="ROOT/train_64x64/*.png and ROOT/valid_64x64/*.png, of 64 x 64 pixels",
        counts={"train": (1_281_149,), "test": (49_999,)},
        num_classes=0,
    ),
    "new": BatchesOfParts(
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
    The other arguments are those of `imagenet`.

    Raises:
        DataError: The version is unknown, or files are missing, damaged or incomplete.
    """
    data = choose(IMAGENET64, version).load(root, 64, check_counts)
    return data.for_training(validation_fraction, horizontal_flip)
