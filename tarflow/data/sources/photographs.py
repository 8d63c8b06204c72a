"""Patches of the colour photographs that come with scikit-learn and scikit-image, for trials."""

from importlib.metadata import version

import torch
from torch import Tensor

from tarflow.data.images import ArrayDataset, ImageData
from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Pixels
from tarflow.registry import register

PHOTOGRAPHS = ("china", "flower", "astronaut", "chelsea", "coffee", "rocket", "motorcycle_left")
"""What the labels mean. Pictures of few colours, such as those by microscopes, are left out."""

REGIONS = {"train": (0.0, 0.65), "val": (0.65, 0.8), "test": (0.8, 1.0)}
"""Columns of each part, as shares of a photograph's width.

Patches drawn at random would lie across those of another part, and a model could know them.
"""


@register
def photographs(size: int = 16) -> ImageData:
    """Colour patches of seven photographs, divided by region; the label tells the photograph.

    Patches of a part do not overlap, but for those of the training part, which are half a side
    apart. The photographs ship with the packages: nothing is downloaded.

    Args:
        size: Height and width of a patch.

    Raises:
        ConfigurationError: The size does not fit, or scikit-image is not installed.
    """
    if not 1 <= size <= 32:
        raise ConfigurationError(f"size {size} is out of range: choose 1 ... 32")
    strides = {"train": max(1, size // 2), "val": size, "test": size}
    images = _load()
    packages = (f"{package} {version(package)}" for package in ("scikit-learn", "scikit-image"))
    return ImageData.of(
        f"photographs ({', '.join(packages)}), patches of {size} x {size}, split by region",
        {part: _part(images, part, size, stride) for part, stride in strides.items()},
        codec=Pixels(256),
        num_classes=len(PHOTOGRAPHS),
        image_shape=(3, size, size),
        class_names=PHOTOGRAPHS,
    )


def _part(images: list[Tensor], part: str, size: int, stride: int) -> ArrayDataset:
    """All patches of a part, those of each photograph on a regular grid of its columns."""
    patches, labels = [], []
    for label, image in enumerate(images):
        first, last = (round(share * image.shape[2]) for share in REGIONS[part])
        windows = image[:, :, first:last].unfold(1, size, stride).unfold(2, size, stride)
        patches.append(windows.permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous())
        labels.append(torch.full((len(patches[-1]),), label))
    return ArrayDataset(torch.cat(patches), torch.cat(labels))


def _load() -> list[Tensor]:
    """Read the photographs, channels first."""
    try:
        import skimage.data
    except ImportError as error:
        raise ConfigurationError(
            "the photographs come with scikit-image, which is not installed: pip install"
            " 'tarflow[baselines]'"
        ) from error
    from sklearn.datasets import load_sample_image

    loaded = [load_sample_image(f"{name}.jpg") for name in PHOTOGRAPHS[:2]]
    loaded += [getattr(skimage.data, name)() for name in PHOTOGRAPHS[2:-1]]
    loaded += [skimage.data.stereo_motorcycle()[0]]
    return [torch.tensor(image).permute(2, 0, 1) for image in loaded]
