"""CIFAR-10; its numbers are from its site (cs.toronto.edu/~kriz/cifar.html)."""

from pathlib import Path

import numpy as np
import torch

from tarflow.data.images import ArrayDataset, ImageData
from tarflow.data.sources.editions import Edition
from tarflow.errors import DataError
from tarflow.registry import register

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
ROW = 1 + 3 * 32 * 32
"""Bytes of an image: its label, then red, green and blue."""


class BinaryRows(Edition):
    """Files of rows: a label, then an image, channel by channel."""

    def read(self, folder: Path, image_size: int) -> ImageData:
        train = sorted(folder.glob("data_batch_*.bin")) or [folder / "data_batch_1.bin"]
        files = {"train": train, "test": [folder / "test_batch.bin"]}
        parts = {part: self._read_rows(paths) for part, paths in files.items()}
        return self.assemble(parts, image_size, class_names=CLASSES)

    def _read_rows(self, paths: list[Path]) -> ArrayDataset:
        """Read the files of a part."""
        content = []
        for path in paths:
            size = path.stat().st_size if path.is_file() else 0
            if not size or size % ROW:
                problem = f"has {size} bytes, not a multiple of {ROW}" if size else "is missing"
                raise DataError(f"{path} {problem}. {self.help}")
            content.append(np.fromfile(path, np.uint8).reshape(-1, ROW))
        table = np.concatenate(content)
        labels = table[:, 0].astype(np.int64)
        if labels.max() >= self.num_classes:
            raise DataError(f"{paths[0].parent} has the label {labels.max()}. {self.help}")
        images = np.ascontiguousarray(table[:, 1:]).reshape(-1, 3, 32, 32)
        return ArrayDataset(torch.from_numpy(images), torch.from_numpy(labels))


CIFAR10 = BinaryRows(
    name="CIFAR-10",
    choice="data=cifar10",
    layout=(
        "ROOT/data_batch_1.bin ... data_batch_5.bin and ROOT/test_batch.bin, the binary version"
        " (cifar-10-binary.tar.gz); the Python version holds pickles, which can run code"
    ),
    counts={"train": (5_000,) * 10, "test": (1_000,) * 10},
    num_classes=10,
)


@register
def cifar10(
    root: str | Path,
    check_counts: bool = True,
    validation_fraction: float = 0.0,
    horizontal_flip: bool = False,
) -> ImageData:
    """CIFAR-10: 32 x 32 pixels, ten classes, 50,000 and 10,000 images.

    The folder is `cifar-10-batches-bin` or a prepared one; the arguments are those of `imagenet`.

    Raises:
        DataError: Files are missing, damaged or incomplete.
    """
    data = CIFAR10.load(root, 32, check_counts)
    return data.for_training(validation_fraction, horizontal_flip)
