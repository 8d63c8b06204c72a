"""How examples are divided into parts: stratified, and the same at every call."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer
from torch.utils.data import Subset

from tarflow.arguments import check_real
from tarflow.errors import DataError

TEST_SEED = 0
VALIDATION_SEED = 1
"""Fixed: a split is part of a data set, or its numbers could not be compared."""

MADE_SPLIT = f"stratified split, seed {TEST_SEED}"
GIVEN_SPLIT = "split as given"


def complete_parts(
    parts: Mapping[str, Any],
    labels: Integer[np.ndarray, " num"],
    test_fraction: float,
    validation_fraction: float,
) -> dict[str, Any]:
    """Take out of the `train` part a `test` part, if there is none, and a `val` part, if asked.

    Every part gets the classes in equal proportion.

    Args:
        parts: The parts that the data came in.
        labels: The class of each training example; all equal for unlabelled data.
        test_fraction: Fraction of the examples that becomes the test part, if there is none.
        validation_fraction: Fraction of the other examples that becomes the validation part.

    Raises:
        DataError: A fraction is out of range, or a part cannot hold every class.
    """
    if "val" in parts and validation_fraction:
        raise DataError(
            f"validation_fraction {validation_fraction} would divide the training images, but the"
            " data has a validation part already: leave it 0"
        )
    indices = {"train": np.arange(len(labels))}
    if "test" not in parts:
        if test_fraction == 0:
            raise DataError(
                "test_fraction 0 leaves no test images: choose 0 < test_fraction < 1, or supply"
                " the data with a test part of its own"
            )
        size = _count_of("test_fraction", test_fraction, len(labels))
        indices |= _hold_out("test", indices["train"], labels, size, TEST_SEED)
    size = _count_of("validation_fraction", validation_fraction, len(indices["train"]))
    if size:
        indices |= _hold_out("val", indices["train"], labels, size, VALIDATION_SEED)
    made = {part: Subset(parts["train"], chosen.tolist()) for part, chosen in indices.items()}
    return {**parts, **made}


def _count_of(name: str, fraction: float, total: int) -> int:
    """Number of examples that a fraction stands for; at least one, unless it is zero."""
    fraction = check_real(name, fraction, DataError)
    if not 0 <= fraction < 1:
        raise DataError(f"{name} {fraction} is out of range: choose 0 <= {name} < 1")
    return max(1, round(fraction * total)) if fraction else 0


def _hold_out(
    part: str, indices: np.ndarray, labels: np.ndarray, size: int, seed: int
) -> dict[str, np.ndarray]:
    """Divide indices into a stratified part of a given size and the rest, which is to train on."""
    _check_classes(labels[indices], size)
    from sklearn.model_selection import train_test_split

    train, held_out = train_test_split(
        indices, test_size=size, stratify=labels[indices], random_state=seed
    )
    return {"train": np.asarray(train), part: np.asarray(held_out)}


def _check_classes(labels: np.ndarray, size: int) -> None:
    """Refuse a split that would leave a class out of one side."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise DataError(
            f"class {classes[counts.argmin()]} has {counts.min()} image, too few to split: every"
            " class needs at least 2, so add images or remove the class"
        )
    smaller = min(size, len(labels) - size)
    if smaller < len(classes):
        raise DataError(
            f"{len(labels)} images split into {len(labels) - size} and {size} leave a part too"
            f" small for {len(classes)} classes: choose another fraction, or add images"
        )
