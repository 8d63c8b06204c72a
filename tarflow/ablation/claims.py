"""What can be asked of runs: rows to tabulate, and whether one is better than another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tarflow.ablation.marked_page import markdown
from tarflow.evaluation.reporting import mean_and_deviation

Results = Sequence[dict[str, Any]]
"""What runs have left."""


def data_of(results: Results) -> list[str]:
    """The data sets, in the order of the runs."""
    return list(dict.fromkeys(result["settings"]["data"] for result in results))


@dataclass(frozen=True)
class Quantity:
    """A number of every run of a variant."""

    variant: str
    path: str  # where a run's file has the number: keys, joined by slashes

    def of(self, results: Results, data: str) -> dict[int, float | None]:
        """The number by seed; None where it is not finite, or was not measured."""
        found = {}
        for result in results:
            settings = result["settings"]
            if (settings["data"], settings["variant"]) == (data, self.variant):
                found[settings["seed"]] = _look_up(result, self.path)
        return found

    def spread(self, results: Results, data: str) -> tuple[float, float] | None:
        """Mean and deviation over seeds with a number; None without any."""
        known = [value for value in self.of(results, data).values() if value is not None]
        if not known:
            return None
        spread = mean_and_deviation(known)
        return spread["mean"], spread["deviation"]


@dataclass(frozen=True)
class Comparison:
    """A claim that one quantity is less, hence better, than another."""

    words: str
    better: Quantity
    worse: Quantity

    def verdict(self, results: Results, data: str) -> str:
        """What the runs say, by the mean difference over seeds and its standard error."""
        better, worse = self.better.of(results, data), self.worse.of(results, data)
        pairs = [(better[seed], worse[seed]) for seed in sorted(better.keys() & worse.keys())]
        if not pairs:
            return "not measured"
        differences = [b - a for a, b in pairs if a is not None and b is not None]
        if len(differences) < len(pairs):
            return _of_failures(pairs)
        spread = mean_and_deviation(differences)
        mean, error = spread["mean"], spread["deviation"] / math.sqrt(len(pairs))
        told = f"{mean:+.3g} ± {error:.2g}"
        if not error or abs(mean) <= 2 * error:  # the error of a single run is 0: not known
            return f"undecided ({told})"
        return f"holds ({told})" if mean > 0 else f"**contradicted** ({told})"


@dataclass(frozen=True)
class Section:
    """A table: rows of quantities, and claims about them."""

    name: str  # in the page's marks
    columns: Sequence[tuple[str, str]]  # headings and paths
    rows: Sequence[tuple[str, str]]  # names and variants
    claims: Sequence[Comparison] = ()


def verdicts(claims: Sequence[Comparison], results: Results) -> str:
    """A table of claims, and of what the runs say of them on every data set."""
    names = data_of(results)
    rows = [[claim.words, *(claim.verdict(results, data) for data in names)] for claim in claims]
    return markdown(["claim", *names], *rows)


def _of_failures(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """A verdict where something is not finite."""
    ours, theirs = (side.count(None) for side in zip(*pairs, strict=True))
    if ours < theirs:
        return f"holds (the other is not finite with {theirs} of {len(pairs)} seeds)"
    return f"undecided (not finite with {ours} and {theirs} of {len(pairs)} seeds)"


def _look_up(result: Any, path: str) -> float | None:
    """A number inside nested objects."""
    for key in path.split("/"):
        result = result.get(key) if isinstance(result, dict) else None
    return None if result is None else float(result)
