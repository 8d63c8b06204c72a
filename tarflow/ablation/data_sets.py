"""The data of studies, which everyone has."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from tarflow.ablation.principal_components import PrincipalComponents
from tarflow.data import ImageData, digits, photographs
from tarflow.data.loading.batches import Batch, read_batch
from tarflow.evaluation import PixelFeatures
from tarflow.evaluation.extractors import Extractor

MOST_COMPONENTS = 64
"""Features of the Fréchet distance; more need more samples than are drawn."""
DATA = {"digits": partial(digits, validation_fraction=0.1), "photographs": photographs}
"""What studies of pixels choose among."""
LARGE = "photographs_32"
"""Larger patches, for latents."""
KNOWN: Mapping[str, Any] = {**DATA, LARGE: partial(photographs, size=32)}


@cache
def data_of(name: str) -> ImageData:
    """A data set, read once in each process."""
    return KNOWN[name]()


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
