"""How examples are divided into parts: stratified, and the same at every call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Integer

from tarflow.arguments import check_real
from tarflow.errors import DataError

TEST_SEED = 0
VALIDATION_SEED = 1
"""Fixed: a split is part of a data set, or its numbers could not be compared."""

MADE_SPLIT = f"stratified split, seed {TEST_SEED}"
GIVEN_SPLIT = "split as given"

Examples = TypeVar("Examples")


@dataclass(frozen=True)
class Split:
    """Indices of the examples of each part."""

    train: list[int]
    validation: list[int]
    test: list[int]


def make_split(
    labels: Integer[np.ndarray, " num"], test_size: int, validation_fraction: float
) -> Split:
    """Divide examples so that every part has the classes in equal proportion.

    Args:
        labels: The class of each example; all equal for unlabelled data, which is then shuffled.
        test_size: Number of test examples.
        validation_fraction: Fraction of the other examples that becomes the validation part.

    Raises:
        DataError: The fraction is out of range, or a part cannot hold every class.
    """
    everything = np.arange(len(labels))
    rest, test = _hold_out(everything, labels, test_size, TEST_SEED)
    validation_size = count_of("validation_fraction", validation_fraction, len(rest))
    train, validation = _hold_out(rest, labels, validation_size, VALIDATION_SEED)
    return Split(train.tolist(), validation.tolist(), test.tolist())


def complete_parts(
    parts: dict[str, Examples],
    labels: Integer[np.ndarray, " num"],
    select: Callable[[Examples, list[int]], Examples],
    test_fraction: float,
    validation_fraction: float,
) -> dict[str, Examples]:
    """Take out of the `train` part a `test` part, if there is none, and a `val` part, if asked.

    Args:
        parts: The parts that the data came in.
        labels: The classes of the training examples.
        select: Picks examples of a part by index.
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
    test_size = 0 if "test" in parts else _test_size(test_fraction, len(labels))
    split = make_split(labels, test_size, validation_fraction)
    made = {"train": select(parts["train"], split.train)}
    if split.validation:
        made["val"] = select(parts["train"], split.validation)
    if split.test:
        made["test"] = select(parts["train"], split.test)
    return parts | made


def count_of(name: str, fraction: float, total: int) -> int:
    """Number of examples that a fraction stands for; at least one, unless it is zero."""
    check_real(name, fraction, DataError)
    if not 0 <= fraction < 1:
        raise DataError(f"{name} {fraction} is out of range: choose 0 <= {name} < 1")
    return max(1, round(fraction * total)) if fraction else 0


def _test_size(fraction: float, total: int) -> int:
    """Number of test examples; never zero, as every data set has a part to report on."""
    if fraction == 0:
        raise DataError(
            "test_fraction 0 leaves no test images: choose 0 < test_fraction < 1, or supply the"
            " data with a test part of its own"
        )
    return count_of("test_fraction", fraction, total)


def _hold_out(
    indices: np.ndarray, labels: np.ndarray, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide indices into the rest and a stratified part of a given size."""
    if size == 0:
        return indices, indices[:0]
    _check_classes(labels[indices], size)
    from sklearn.model_selection import train_test_split

    rest, part = train_test_split(
        indices, test_size=size, stratify=labels[indices], random_state=seed
    )
    return np.asarray(rest), np.asarray(part)


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
