"""What the benchmark of training found."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.loading import Loading
from benchmarks.results import Key, Report, Timed, rows_of


@dataclass(frozen=True)
class TrainingMeasurement(Timed):
    """One way to train, in one case; seconds are those of a step.

    Attributes:
        operations: What the model needs to compute in a step, whatever the mode computes.
        operations_per_second: What the machine does at best in this precision.
        peak_bytes: The most bytes that tensors took: weights, gradients, optimizer, activations.
    """

    operations: float
    operations_per_second: float
    peak_bytes: int

    @property
    def steps_per_second(self) -> float:
        """At the median."""
        return 1 / self.median

    @property
    def utilization(self) -> float:
        """The rate of the model's operations, of the rate that the machine reaches at best."""
        return self.operations / (self.median * self.operations_per_second)


@dataclass
class TrainingResults(Report[TrainingMeasurement]):
    """How fast flows were trained, and in how much memory.

    Attributes:
        loading: How long steps waited for their images.
    """

    row = TrainingMeasurement
    prefix = "training"
    title = "training steps"
    columns = ("steps/s", "images/s", "ratio", "to best", "MFU", "peak memory", "of baseline")

    loading: list[Loading] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        found = super().read(path)
        found.loading = rows_of(Loading, json.loads(path.read_text())["data_loading_share"])
        return found

    def forget(self, keys: Sequence[Key]) -> None:
        super().forget(keys)
        batches = {batch_size for _, batch_size, _ in keys}
        self.loading = [each for each in self.loading if each.batch_size not in batches]

    def remarks(self) -> list[str]:
        return [str(each) for each in self.loading]

    def memory_ratio(self, each: TrainingMeasurement) -> float:
        """The peak of memory, of that of the baseline."""
        return each.peak_bytes / self.beside(each, "baseline").peak_bytes

    def derived(self, each: TrainingMeasurement) -> dict[str, float]:
        return {
            "median_seconds": each.median,
            "steps_per_second": each.steps_per_second,
            "images_per_second": each.images_per_second,
            "ratio_to_baseline": self.ratio(each),
            "ratio_to_best_baseline": self.ratio_to_best(each),
            "model_flop_utilization": each.utilization,
            "memory_ratio_to_baseline": self.memory_ratio(each),
        }

    def to_dict(self) -> dict[str, Any]:
        rows = [asdict(each) | {"share": each.share} for each in self.loading]
        return super().to_dict() | {"data_loading_share": rows}

    def cells(self, each: TrainingMeasurement) -> list[str]:
        return [
            f"{each.steps_per_second:.3g}",
            f"{each.images_per_second:.3g}",
            f"{self.ratio(each):.2f} x",
            f"{self.ratio_to_best(each):.2f} x",
            f"{100 * each.utilization:.1f} %",
            f"{each.peak_bytes / 2**20:,.0f} MB",
            f"{100 * self.memory_ratio(each):.0f} %",
        ]
