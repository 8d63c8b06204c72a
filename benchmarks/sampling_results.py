"""What the benchmark of sampling found: ways against each other, peers, and growth with size."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.results import Key, Report, Timed, percent


@dataclass(frozen=True)
class Measurement(Timed):
    """One way to sample, in one case.

    Attributes:
        floor_seconds: The least that the machine would need for the same passes.
        rms: Root mean square of the deviation from sequential samples in float64; infinite where
            a sample is not finite.
        maximum: Largest deviation.
        passes: Number of passes through a transformer, over all transforms.
        positions: Number of positions that they predicted.
        windows: Window of each transform, that nearest the noise first; 1 is sequential.
    """

    floor_seconds: float
    rms: float
    maximum: float
    passes: int
    positions: int
    windows: list[int]

    @property
    def roofline(self) -> float:
        """The share of its time that the machine would need at best."""
        return self.floor_seconds / self.median


@dataclass
class Results(Report[Measurement]):
    """How fast samples were drawn."""

    row = Measurement
    prefix = "sampling"
    title = "guided samples"
    columns = ("images/s", "ratio", "to best", "roofline", "RMS", "maximum", "passes", "windows")

    def break_even(self, measurement: Measurement) -> float:
        """Number of samples from which a mode takes less than sequential decoding in all.

        What the first batch takes longer than the others is the cost of the mode.
        """
        sequential = self.beside(measurement, "sequential")
        cost = measurement.first_seconds - measurement.median
        gain = sequential.median - measurement.median
        return measurement.batch_size * cost / gain if gain > 0 else math.inf

    def remarks(self) -> list[str]:
        """What compiling costs and gains, a line for each case."""
        lines = []
        for each in self.rows("compiled"):
            samples, sequential = self.break_even(each), self.beside(each, "sequential")
            pays = f"pays after {samples:,.0f} samples" if samples < math.inf else "never pays"
            lines.append(
                f"compiled, T = {each.length}, batch {each.batch_size}, {each.precision}:"
                f" first batch {each.first_seconds:.1f} s, others {each.median:.3g} s,"
                f" sequential {sequential.median:.3g} s; {pays}"
            )
        return lines

    def derived(self, each: Measurement) -> dict[str, float]:
        return {
            "median_seconds": each.median,
            "images_per_second": each.images_per_second,
            "ratio_to_baseline": self.ratio(each),
            "ratio_to_best_baseline": self.ratio_to_best(each),
            "roofline_fraction": each.roofline,
        }

    def cells(self, each: Measurement) -> list[str]:
        return [
            f"{each.images_per_second:.3g}",
            f"{self.ratio(each):.2f} x",
            f"{self.ratio_to_best(each):.2f} x",
            percent(each.roofline),
            f"{each.rms:.1e}",
            f"{each.maximum:.1e}",
            str(each.passes),
            " ".join(map(str, each.windows)),
        ]


class PeerResults(Results):
    """How fast parallel decoders were, and how far from sequential samples in float64."""

    prefix = "peers"
    title = "guided samples by parallel decoders"

    @property
    def families(self) -> list[str]:
        """The decoders, whatever their settings."""
        return list(dict.fromkeys(family(each) for each in self.measurements))

    def fastest(self, case: Key, name: str, kind: str, bound: float) -> Measurement | None:
        """The fastest setting of a decoder whose samples deviate by no more than a bound.

        Args:
            case: What was sampled.
            name: The decoder.
            kind: Which deviation: `rms` or `maximum`.
            bound: The largest one.
        """
        near = (
            each
            for each in self.measurements
            if each.case == case and family(each) == name and getattr(each, kind) <= bound
        )
        return min(near, key=lambda each: each.median, default=None)


def family(each: Measurement) -> str:
    """The decoder of a mode, without its setting."""
    return each.mode.partition(", ")[0]


@dataclass(frozen=True)
class Exponent:
    """How the time of a mode grows: as a power of the length or of the batch size.

    Attributes:
        mode: The way to sample.
        precision: In which transformers compute.
        over: What grows: `length` or `batch_size`.
        fixed: The other of the two.
        slope: Of the logarithm of the median seconds, by least squares.
        error: Standard error of the slope, from how far the medians are off a straight line.
        points: Number of medians.
    """

    mode: str
    precision: str
    over: str
    fixed: int
    slope: float
    error: float
    points: int

    @classmethod
    def fit(cls, rows: list[Measurement], over: str) -> "Exponent":
        """Fit it to what differs in size alone: three or more."""
        x = [math.log(getattr(each, over)) for each in rows]
        y = [math.log(each.median) for each in rows]
        slope, intercept = statistics.linear_regression(x, y)
        missed = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True))
        spread = statistics.variance(x) * (len(x) - 1)
        error = math.sqrt(missed / (len(x) - 2) / spread)
        fixed = getattr(rows[0], OTHER[over])
        return cls(rows[0].mode, rows[0].precision, over, fixed, slope, error, len(rows))

    def __str__(self) -> str:
        return (
            f"{self.mode}, {self.precision}, {OTHER[self.over]} {self.fixed}: seconds grow as"
            f" {self.over} ^ {self.slope:.2f} +- {self.error:.2f} over {self.points} medians"
        )


OTHER = {"length": "batch_size", "batch_size": "length"}


class LengthResults(Results):
    """How the time to sample grows with the length and with the batch."""

    prefix = "lengths"
    title = "guided samples of more positions, and more at a time"

    def remarks(self) -> list[str]:
        return [str(each) for each in self.exponents()]

    def exponents(self) -> Iterator[Exponent]:
        """Those of every mode that was measured at three sizes or more."""
        for over, other in OTHER.items():
            groups: dict[tuple, list[Measurement]] = {}
            for each in self.measurements:
                key = each.mode, each.precision, getattr(each, other)
                groups.setdefault(key, []).append(each)
            yield from (Exponent.fit(rows, over) for rows in groups.values() if len(rows) > 2)

    def series(self, found: Exponent) -> list[Measurement]:
        """What an exponent was fitted to."""
        same = (e for e in self.measurements if getattr(e, OTHER[found.over]) == found.fixed)
        return [e for e in same if (e.mode, e.precision) == (found.mode, found.precision)]

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"exponents": [asdict(each) for each in self.exponents()]}
