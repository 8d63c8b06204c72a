"""How examples are divided into parts, the same at every call: stratified, or by their names."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Integer
from torch.utils.data import Subset

from tarflow.arguments import check_real
from tarflow.errors import DataError

SEEDS = {"test": 0, "val": 1}
"""Fixed: a split is part of a data set, or its numbers could not be compared."""

FRACTIONS = {"test": "test_fraction", "val": "validation_fraction"}

MADE_SPLIT = f"stratified split, seed {SEEDS['test']}"
NAMED_SPLIT = f"split by names of files, seed {SEEDS['test']}"
GIVEN_SPLIT = "split as given"

Divide = Callable[[str, np.ndarray, float], tuple[np.ndarray, np.ndarray]]
"""Divides indices into those to train on and that fraction of them, which a part gets."""


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

    def stratified(
        part: str, indices: np.ndarray, fraction: float
    ) -> tuple[np.ndarray, np.ndarray]:
        size = max(1, round(fraction * len(indices)))
        _check_classes(labels[indices], size)
        from sklearn.model_selection import train_test_split

        options = {"stratify": labels[indices], "random_state": SEEDS[part]}
        train, held_out = train_test_split(indices, test_size=size, **options)
        return np.asarray(train), np.asarray(held_out)

    return _complete(parts, len(labels), test_fraction, validation_fraction, stratified)


def complete_parts_by_name(
    parts: Mapping[str, Any],
    names: Sequence[str],
    test_fraction: float,
    validation_fraction: float,
) -> dict[str, Any]:
    """Do as `complete_parts`, but by the name of each training example alone.

    One that is added or removed moves no other. Fractions hold on average; where too few examples
    are there for one to be held out, the nearest is.

    Raises:
        DataError: A fraction is out of range, or there is one example.
    """

    def by_name(part: str, indices: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        places = np.array([_place(names[int(index)], SEEDS[part]) for index in indices])
        chosen = places < fraction
        # of a few, none or all may be chosen: each side gets one, whatever the fraction
        chosen[places.argmin()], chosen[places.argmax()] = True, False
        if not chosen.any():
            raise DataError(f"1 image cannot be divided into train and {part}: add images")
        return indices[~chosen], indices[chosen]

    return _complete(parts, len(names), test_fraction, validation_fraction, by_name)


def _complete(
    parts: Mapping[str, Any],
    count: int,
    test_fraction: float,
    validation_fraction: float,
    divide: Divide,
) -> dict[str, Any]:
    """Complete the parts by taking indices out of `train`."""
    if "val" in parts and validation_fraction:
        raise DataError(
            f"validation_fraction {validation_fraction} would divide the training examples, but"
            " the data has a validation part already: leave it 0"
        )
    if "test" not in parts and test_fraction == 0:
        raise DataError(
            "test_fraction 0 leaves no test examples: choose 0 < test_fraction < 1, or supply"
            " the data with a test part of its own"
        )
    indices = {"train": np.arange(count)}
    for part, fraction in {"test": test_fraction, "val": validation_fraction}.items():
        if part not in parts and _check_fraction(FRACTIONS[part], fraction):
            indices["train"], indices[part] = divide(part, indices["train"], fraction)
    return {**parts, **{part: _take(parts["train"], each) for part, each in indices.items()}}


def _take(part: Any, indices: np.ndarray) -> Subset:
    """Some examples of a part; eight bytes for each of their indices, where a list takes forty."""
    return Subset(part, array("q", indices.astype(np.int64).tobytes()))


def _check_fraction(name: str, fraction: float) -> float:
    """Refuse what is not a fraction."""
    fraction = check_real(name, fraction, DataError)
    if not 0 <= fraction < 1:
        raise DataError(f"{name} {fraction} is out of range: choose 0 <= {name} < 1")
    return fraction


def _place(name: str, seed: int) -> float:
    """A number in [0, 1) that follows from a name, as if drawn at random."""
    key = name.encode("utf-8", "surrogateescape")
    digest = blake2b(key, digest_size=6, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest) / 2**48


def _check_classes(labels: np.ndarray, size: int) -> None:
    """Refuse a split that would leave a class out of one side."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise DataError(
            f"class {classes[counts.argmin()]} has {counts.min()} example, too few to split: every"
            " class needs at least 2, so add some or remove the class"
        )
    smaller = min(size, len(labels) - size)
    if smaller < len(classes):
        raise DataError(
            f"{len(labels)} examples split into {len(labels) - size} and {size} leave a part too"
            f" small for {len(classes)} classes: choose another fraction, or add examples"
        )
