"""What the benchmark of training found."""

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.loading import Loading
from benchmarks.results import Report, Timed


@dataclass(frozen=True)
class TrainingMeasurement(Timed):
    """One way to train, in one case.

    Attributes:
        patch_size: Side of a patch.
        length: Number of patches T.
        batch_size: Number of images in a step.
        dtype: Precision in which transformers compute.
        mode: The way.
        first_seconds: Of the first fit of two steps, which compiles.
        seconds: Of a step in each repetition, in order.
        operations: What the model needs to compute in a step, whatever the mode computes.
        operations_per_second: What the machine does at best in this precision.
        peak_bytes: The most bytes that tensors took: weights, gradients, optimizer, activations.
    """

    patch_size: int
    length: int
    batch_size: int
    dtype: str
    mode: str
    first_seconds: float
    seconds: list[float]
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

    @property
    def case(self) -> tuple[int, int, str]:
        return self.length, self.batch_size, self.dtype


@dataclass
class TrainingResults(Report[TrainingMeasurement]):
    """How fast flows were trained, and in how much memory.

    Attributes:
        loading: How long steps waited for their images.
    """

    prefix = "training"
    title = "training steps"
    columns = ("steps/s", "images/s", "ratio", "MFU", "peak memory", "of baseline")

    loading: list[Loading] = field(default_factory=list)

    def memory_ratio(self, each: TrainingMeasurement) -> float:
        """The peak of memory, of that of the baseline."""
        return each.peak_bytes / self.beside(each, "baseline").peak_bytes

    def derived(self, each: TrainingMeasurement) -> dict[str, float]:
        return {
            "median_seconds": each.median,
            "steps_per_second": each.steps_per_second,
            "images_per_second": each.images_per_second,
            "ratio_to_baseline": self.ratio(each),
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
            f"{100 * each.utilization:.1f} %",
            f"{each.peak_bytes / 2**20:,.0f} MB",
            f"{100 * self.memory_ratio(each):.0f} %",
        ]
