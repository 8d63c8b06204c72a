"""The data of studies, which everyone has."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

from tarflow.ablation.principal_components import PrincipalComponents
from tarflow.data import ImageData, digits, photographs, random_images
from tarflow.data.loading.batches import Batch, read_batch
from tarflow.evaluation import PixelFeatures
from tarflow.evaluation.extractors import Extractor

MOST_COMPONENTS = 64
"""Features of the Fréchet distance; more need more samples than are drawn."""
DATA = {"digits": partial(digits, validation_fraction=0.1), "photographs": photographs}
"""What studies of pixels choose among."""


def random_patches() -> ImageData:
    """Random bytes, in a moment."""
    data = random_images(64, 16, image_size=32, num_classes=2)
    return replace(data, validation=data.test)


LARGE: Mapping[str, Any] = {
    "photographs_32": partial(photographs, size=32),
    "random_32": random_patches,
}
"""What studies of latents choose among: larger patches, and random bytes for a trial."""


@cache
def data_of(name: str) -> ImageData:
    """A data set, read once in each process."""
    return {**DATA, **LARGE}[name]()


@cache
def features_of(name: str) -> Extractor:
    """What images of a data set are compared by: pixels, or their principal components."""
    train = whole(data_of(name).train).x
    if train[0].numel() <= MOST_COMPONENTS:
        return PixelFeatures()
    return PrincipalComponents.of(train, MOST_COMPONENTS)


def whole(part: Any) -> Batch:
    """All of a part of a data set."""
    return read_batch(part, range(len(part)))
