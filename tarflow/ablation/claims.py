"""What can be asked of runs: rows to tabulate, and whether one is better than another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Results = Sequence[dict[str, Any]]
"""What runs have left."""


@dataclass(frozen=True)
class Quantity:
    """A number of every run of a variant.

    Attributes:
        variant: Name of the variant.
        path: Where a run's file has the number: keys, joined by slashes.
    """

    variant: str
    path: str

    def of(self, results: Results, data: str) -> dict[int, float | None]:
        """The number by seed; None where it is not finite, or was not measured."""
        found = {}
        for result in results:
            settings = result["settings"]
            if (settings["data"], settings["variant"]) == (data, self.variant):
                found[settings["seed"]] = _look_up(result, self.path.split("/"))
        return found


@dataclass(frozen=True)
class Comparison:
    """A claim that one quantity is less, hence better, than another.

    Attributes:
        words: The claim.
        better: What should be less.
        worse: What should be more.
    """

    words: str
    better: Quantity
    worse: Quantity

    def verdict(self, results: Results, data: str) -> str:
        """What the runs say, by the mean difference over seeds and its standard error."""
        better, worse = self.better.of(results, data), self.worse.of(results, data)
        seeds = sorted(better.keys() & worse.keys())
        if not seeds:
            return "not measured"
        pairs = [(better[seed], worse[seed]) for seed in seeds]
        if any(a is None for a, _ in pairs) or any(b is None for _, b in pairs):
            return _of_failures(pairs)
        differences = [b - a for a, b in pairs if a is not None and b is not None]
        mean, error = mean_and_error(differences)
        told = f"{mean:+.3g} ± {error:.2g}"
        if not error or abs(mean) <= 2 * error:
            return f"undecided ({told})"
        return f"holds ({told})" if mean > 0 else f"**contradicted** ({told})"


@dataclass(frozen=True)
class Section:
    """A table: rows of quantities, and claims about them.

    Attributes:
        name: In the page's marks.
        columns: Headings and paths.
        rows: Names and variants.
        claims: What should be better than what.
    """

    name: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, str]]
    claims: Sequence[Comparison] = field(default_factory=tuple)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; the error of a single value is 0, which decides nothing."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def _of_failures(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """A verdict where something is not finite."""
    failed = [sum(value is None for value in side) for side in zip(*pairs, strict=True)]
    if failed[0] < failed[1]:
        return f"holds (the other is not finite with {failed[1]} of {len(pairs)} seeds)"
    return f"undecided (not finite with {failed[0]} and {failed[1]} of {len(pairs)} seeds)"


def _look_up(result: Any, keys: Sequence[str]) -> float | None:
    """A number inside nested objects."""
    for key in keys:
        if not isinstance(result, dict) or key not in result:
            return None
        result = result[key]
    return None if result is None else float(result)
