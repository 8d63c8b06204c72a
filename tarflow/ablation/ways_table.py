"""A table of samples, which were drawn from models in several ways."""

from collections.abc import Sequence
from dataclasses import dataclass

from tarflow.ablation.claims import Quantity, Results
from tarflow.ablation.marked_page import markdown

QUALITY = (
    ("distance", "samples/{}/frechet_distance"),
    ("kernel distance", "samples/{}/kernel_distance"),
    ("precision", "samples/{}/precision"),
    ("recall", "samples/{}/recall"),
)
"""Headings, and where a run has the number of a way to draw."""
REAL = "real held-out images"


@dataclass(frozen=True)
class WayRow:
    """A way to draw samples.

    Attributes:
        words: What it is called in tables.
        variant: What fitted the model.
        way: What it is called in results.
    """

    words: str
    variant: str
    way: str

    def quantity(self, path: str) -> Quantity:
        """A number of samples that are drawn like this."""
        return Quantity(self.variant, path.format(self.way))


def ways_table(
    results: Results,
    data: str,
    ways: Sequence[WayRow],
    columns: Sequence[tuple[str, str]],
    real: str,
) -> str:
    """Means and deviations over seeds; columns of which nothing is known are left out.

    Args:
        results: What runs have left.
        data: The data set.
        ways: The rows.
        columns: Headings, and where a run has the number of a way to draw.
        real: The variant whose runs tell what real images score.
    """
    rows = [
        [way.words, *(told(way.quantity(path).spread(results, data)) for _, path in columns)]
        for way in ways
    ]
    rows.append([REAL, *(_real(results, data, path, real) for _, path in columns)])
    kept = [i for i in range(len(columns) + 1) if any(row[i] for row in rows)]
    head = ["samples", *(heading for heading, _ in columns)]
    return markdown([head[i] for i in kept], *([row[i] for i in kept] for row in rows))


def told(found: tuple[float, float] | None) -> str:
    """Mean and deviation, with as many digits as mean something."""
    if found is None:
        return ""
    mean, deviation = found
    if deviation <= 1e-9 * abs(mean):  # the same in all runs, but for how it was rounded
        return _plain(mean, 3)
    return f"{_plain(mean, 3)} ± {_plain(deviation, 1)}"


def _plain(value: float, digits: int) -> str:
    """A number with so many digits that mean something, and no powers of ten."""
    return f"{float(f'{value:.{digits}g}'):,g}"


def _real(results: Results, data: str, path: str, variant: str) -> str:
    """A number of real images."""
    place, _, name = path.rpartition("/")
    if not place.startswith("samples"):
        return ""
    return told(Quantity(variant, f"real/{name}").spread(results, data))
