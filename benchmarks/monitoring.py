"""What monitoring costs: the share of a step that its callbacks take.

`python benchmarks/monitoring.py` trains the flow of the digits' experiment, whose steps are short
and logged every 10: more than monitoring weighs elsewhere. Lightning's profiler times every call,
and the hooks that compute statistics inside of a step are timed by themselves. Steps with and
without, in turns, differ by the machine's own 20 %, which says nothing about 1 %.
"""

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.profilers import SimpleProfiler

sys.path.insert(0, str(Path(__file__).parents[1]))  # for checkouts that are not installed

from benchmarks.trainer import PackageTraining
from tarflow import GaussianNoise, Pixels, TarFlow
from tarflow.data import ImageDataModule, digits
from tarflow.machine.device import now
from tarflow.training import Throughput, TransformStatistics


class TimedStatistics(TransformStatistics):
    """Tells how long its hooks took, beside what it is told to do."""

    seconds = 0.0

    def _look(self, places: Iterator[int], transform: Any, inputs: Any, output: Any) -> None:
        begin = now("cpu")
        super()._look(places, transform, inputs, output)
        TimedStatistics.seconds += now("cpu") - begin


MONITORS = (Throughput, TimedStatistics)


def measure(steps: int, warmup: int = 10) -> dict[str, float]:
    """The share of a step that each monitor takes, hooks included.

    Args:
        steps: Number of steps that count.
        warmup: Number of steps before; the monitors' share of them is counted, and is small.
    """
    known: Any = {"codec": Pixels(17), "noise": GaussianNoise(0.1)}
    flow = TarFlow(8, 2, 1, 4, 2, 64, head_dim=32, num_classes=10, **known)
    device, batches = torch.device("cpu"), ImageDataModule(digits(), 64)
    training = PackageTraining(flow, batches, torch.float32, device, {}, MONITORS)
    profiler, TimedStatistics.seconds = SimpleProfiler(), 0.0
    step = training.run(warmup, steps, profiler)
    total = step * (warmup + steps)
    shares = {
        monitor.__name__: sum(
            sum(durations)
            for action, durations in profiler.recorded_durations.items()
            if f"]{monitor.__name__}.on_train_batch" in action
        )
        / total
        for monitor in MONITORS
    }
    shares["hooks of transforms"] = TimedStatistics.seconds / total
    print(f"{1000 * step:.1f} ms a step: " + ", ".join(f"{k} {v:.3%}" for k, v in shares.items()))
    return shares


if __name__ == "__main__":
    runs = [sum(measure(steps=200).values()) for _ in range(5)]
    print(
        f"monitoring takes {statistics.median(runs):.2%} of a step, median of {len(runs)} runs,"
        f" {min(runs):.2%} to {max(runs):.2%}"
    )
