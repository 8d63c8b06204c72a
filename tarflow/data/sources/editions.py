"""Published data sets: which versions there are, what belongs in them and how they are laid out.

Numbers of images: CIFAR-10 from its site (cs.toronto.edu/~kriz/cifar.html); ImageNet and its
box-downsampled version from arXiv 1409.0575 and 1707.08819 (TensorFlow's catalogue has the same
for `imagenet_resized`); the older downsampled version (arXiv 1601.06759) from that catalogue's
`downsampled_imagenet`; AFHQ from its two releases, 16,130 images and, with some 2 % removed,
15,803 (arXiv 1912.01865, 2106.12423); FFHQ, and its split, from github.com/NVlabs/ffhq-dataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tarflow.errors import DataError

MAX_LISTED = 5
"""Numbers of more classes than these are not listed one by one."""


@dataclass(frozen=True)
class Edition:
    """One version of a published data set.

    Attributes:
        name: The data set and its version: two versions are not comparable.
        choice: What selects it in a command.
        layout: How its files are laid out as they are published.
        counts: Number of images of each part: one for each class, or a single one.
        num_classes: Number of classes; 0 where there are no labels.
    """

    name: str
    choice: str
    layout: str
    counts: Mapping[str, tuple[int, ...]]
    num_classes: int

    @property
    def help(self) -> str:
        """What is expected, and how to prepare it."""
        return (
            f"{self.name} is expected as {self.layout}; or as what this makes of it: tarflow"
            f" prepare {self.choice} data.data.root=SOURCE output=FOLDER"
        )

    def check(self, part: str, labels: Any) -> None:
        """Compare the number of images, of each class where that is known.

        Raises:
            DataError: There are more or fewer.
        """
        expected = self.counts[part]
        found = (len(labels),)
        if len(expected) > 1:
            found = tuple(np.bincount(np.asarray(labels) + 1, minlength=len(expected) + 1)[1:])
        if tuple(map(int, found)) == expected and len(labels) == sum(expected):
            return
        by_class = ""
        if 1 < len(expected) <= MAX_LISTED:
            listed = (", ".join(map(str, counts)) for counts in (found, expected))
            by_class = " (by class {}, where {} are expected)".format(*listed)
        raise DataError(
            f"there are {len(labels):,} {part} images{by_class}, but {self.name} has"
            f" {sum(expected):,}: complete them, or pass check_counts=false to use a subset."
            f" {self.help}"
        )


def _afhq(version: str, test: str, counts: Mapping[str, tuple[int, ...]]) -> Edition:
    """A release of AFHQ."""
    folders = f"ROOT/train/cat, dog, wild and ROOT/{test}/cat, dog, wild with images in each"
    choice = f"data=afhq data.data.version={version}"
    return Edition(f"AFHQ {version}", choice, folders, counts, 3)


CIFAR10 = Edition(
    name="CIFAR-10",
    choice="data=cifar10",
    layout=(
        "ROOT/data_batch_1.bin ... data_batch_5.bin and ROOT/test_batch.bin, the binary version"
        " (cifar-10-binary.tar.gz); the Python version holds pickles, which can run code"
    ),
    counts={"train": (5_000,) * 10, "test": (1_000,) * 10},
    num_classes=10,
)

IMAGENET = Edition(
    name="ImageNet (ILSVRC 2012)",
    choice="data=imagenet data.data.image_size=64",
    layout=(
        "ROOT/train/CLASS/IMAGE and ROOT/val/CLASS/IMAGE with a folder for each of 1,000 classes"
        " (the archive of validation images is flat: sort them into folders by their labels)"
    ),
    counts={"train": (1_281_167,), "test": (50_000,)},
    num_classes=1_000,
)

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

AFHQ = {
    "v1": _afhq("v1", "val", {"train": (5_153, 4_739, 4_738), "test": (500, 500, 500)}),
    "v2": _afhq("v2", "test", {"train": (5_065, 4_678, 4_593), "test": (493, 491, 483)}),
}

FFHQ = Edition(
    name="FFHQ",
    choice="data=ffhq data.data.image_size=256",
    layout="PNG files in ROOT or folders in it (images1024x1024/00000/00000.png ...), in order",
    counts={"train": (60_000,), "test": (10_000,)},
    num_classes=0,
)
