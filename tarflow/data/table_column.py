"""A column of a table as it was read: what its values are, and where they may lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Shaped

from tarflow.arguments import shown
from tarflow.errors import DataError
from tarflow.flows.categories import Categories
from tarflow.flows.supports import Integers, Real, Support

MISSING = ("", "na", "n/a", "#n/a", "nan", "null")
"""What stands where a text is missing, in small letters."""

WHOLE = 2**24
"""float32 holds all integers up to this one."""

FINEST = 2**-15
"""The least deviation of a column in units of its largest value: float32 has 2**-23 of that."""


@dataclass(frozen=True)
class TableColumn:
    """The values of a column: numbers, or texts.

    Attributes:
        name: Its name.
        values: float64, or strings as objects; NaN or an empty string where one is missing.
        missing: Which of them are missing.
    """

    name: str
    values: Shaped[np.ndarray, " rows"]
    missing: Bool[np.ndarray, " rows"]

    @classmethod
    def of(cls, name: str, given: Shaped[np.ndarray, "..."], as_texts: bool) -> "TableColumn":
        """Read what a file holds; truth values are texts, and so are numbers where that is asked.

        Raises:
            DataError: It is neither numbers nor texts, or both.
        """
        if given.ndim != 1 or given.dtype.kind not in "biufUSTO":
            raise DataError(
                f"column {name!r} holds {given.dtype} of shape {given.shape}: make numbers or"
                f" texts of it, or leave it out by exclude=[{name}]"
            )
        if given.dtype.kind in "iuf" and not as_texts:
            numbers = given.astype(np.float64)
            return cls(name, numbers, np.isnan(numbers))
        texts = [_text(name, each) for each in given.tolist()]
        missing = np.array([text is None for text in texts], dtype=bool)
        if as_texts:  # NumPy and Arrow have 7 where a text may have 7.0 or 07
            texts = [text and _shortest(text) for text in texts]
        elif given.dtype.kind != "b":
            numbers = _numbers(name, texts)
            if numbers is not None:
                return cls(name, numbers, missing)
        return cls(name, np.array([text or "" for text in texts], dtype=object), missing)

    def at(self, rows: Shaped[np.ndarray, " some"]) -> "TableColumn":
        """Some of its rows."""
        return TableColumn(self.name, self.values[rows], self.missing[rows])

    @property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        return self.values.dtype == object

    def support(self, max_categories: int) -> Support:
        """Where values like these lie: categories, integers, or real numbers.

        Raises:
            DataError: There are too many categories, or numbers that float32 cannot tell apart.
        """
        if not self.is_text:
            whole = bool((self.values == np.floor(self.values)).all())
            return self.integers() if whole else Real()
        names = sorted(set(self.values.tolist()))
        if len(names) > max_categories:
            raise DataError(
                f"column {self.name!r} holds {len(names)} different texts, such as"
                f" {shown(names[0])}, and max_categories is {max_categories}: leave it out by"
                f" exclude=[{self.name}], or raise max_categories"
            )
        return Categories(names)

    def integers(self) -> Integers:
        """The support of integers like these: from 0, unless some are below."""
        return Integers(None if not self.is_text and self.values.min() < 0 else 0)

    def check(self) -> None:
        """Refuse training values that have no density, or lose it in float32.

        Raises:
            DataError: It is such a column.
        """
        if self.is_text:
            return
        largest = np.abs(self.values).max()
        deviation = self.values.std()
        whole = (self.values == np.floor(self.values)).all()
        if whole and largest > WHOLE:
            raise DataError(
                f"column {self.name!r} holds integers up to {largest:.0f}, beyond {WHOLE}, up to"
                f" which float32 tells them apart: leave it out by exclude=[{self.name}], or make"
                " smaller ones of it"
            )
        if deviation < FINEST * largest:
            raise DataError(
                f"column {self.name!r} varies by {deviation:g} about {self.values.mean():g}, which"
                " float32 tells apart too coarsely: take the mean off"
            )

    @property
    def is_constant(self) -> bool:
        """Whether all values are the same."""
        return bool((self.values == self.values[:1]).all())

    def numbers(self, support: Support, part: str) -> Float64[np.ndarray, " rows"]:
        """The values as numbers within a support: categories by their places.

        Raises:
            DataError: One is infinite, or outside of the support; tells which.
        """
        if isinstance(support, Categories):
            return self._places(support.names, part)
        if self.is_text:
            raise DataError(
                f"column {self.name!r} holds texts, such as {shown(self.values[0])}, and its"
                f" support is {support}, one of numbers"
            )
        if np.isinf(self.values).any():
            raise DataError(
                f"column {self.name!r} of the {part} part holds infinite values: replace them, or"
                f" leave it out by exclude=[{self.name}]"
            )
        values = torch.from_numpy(self.values)[:, None]
        inner, _ = support.to_inner(values + 0.5 * support.cell)
        held = (support.holds(values) & inner.isfinite().all(dim=-1)).numpy()
        if not held.all():
            raise DataError(
                f"column {self.name!r} of the {part} part holds {self.values[~held][0]:g}, outside"
                f" of {support}: mend it, or give its support, as by supports={{{self.name}:"
                " {_target_: tarflow.Real}}"
            )
        return self.values

    def _places(self, names: Sequence[str], part: str) -> Float64[np.ndarray, " rows"]:
        """The places of texts in a list of names."""
        place = {name: float(index) for index, name in enumerate(names)}
        found = np.array([place.get(text, math.nan) for text in self.values.tolist()])
        if np.isnan(found).any():
            raise DataError(
                f"column {self.name!r} of the {part} part holds"
                f" {shown(self.values[np.isnan(found)][0])}, which is not among its"
                f" {len(names)} categories, those of the training part unless they are given: give"
                f" them all, as by categories={{{self.name}: [...]}}, or leave such rows out"
            )
        return found


def _text(name: str, value: Any) -> str | None:
    """A value as text; None where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str | bool | int | float | Decimal):
        raise DataError(
            f"column {name!r} holds {shown(value)}, a {type(value).__name__}: make numbers or"
            f" texts of it, or leave it out by exclude=[{name}]"
        )
    text = str(value).strip()
    return None if text.lower() in MISSING else text


def _shortest(text: str) -> str:
    """A text, or the number that it is, with as few digits as tell it apart."""
    number = float(text) if is_number(text) else math.nan
    if math.isnan(number):
        return text
    return str(int(number)) if number.is_integer() else str(number)


def _numbers(name: str, texts: Sequence[str | None]) -> Float64[np.ndarray, " rows"] | None:
    """What texts are as numbers; None where none of them is one.

    Raises:
        DataError: Some are, and some are not.
    """
    try:
        return np.array([math.nan if text is None else text for text in texts]).astype(np.float64)
    except ValueError:
        pass
    present = {row: text for row, text in enumerate(texts) if text is not None}
    others = {row: text for row, text in present.items() if not is_number(text)}
    if len(others) < len(present):
        row, text = next(iter(others.items()))
        raise DataError(
            f"column {name!r} holds {shown(text)}, in row {row}, among numbers: mend it, or take"
            f" all of them for categories by categories=[{name}]"
        )
    return None


def is_number(text: str) -> bool:
    """Whether a text is that of a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
