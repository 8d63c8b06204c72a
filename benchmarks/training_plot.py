"""Draws what the benchmark of training found."""

from pathlib import Path

from benchmarks.plot import bars, finish, panels
from benchmarks.training_results import TrainingResults


def draw(results: TrainingResults, path: Path) -> None:
    """Write a picture: speed, model FLOP utilization and memory of every mode."""
    figure, (speed, utilization, memory) = panels(results, 3)
    bars(speed, results, results.ratio, lambda each: f"{each.steps_per_second:.3g}")
    speed.set_ylabel("speed / baseline\n(steps per second above)")
    speed.axhline(1, color="#555555", linewidth=0.8, linestyle=":")
    bars(
        utilization,
        results,
        lambda each: 100 * each.utilization,
        lambda each: f"{100 * each.utilization:.2g}",
    )
    utilization.set_ylabel("model FLOP utilization\n% of measured products")
    bars(memory, results, results.memory_ratio, lambda each: f"{each.peak_bytes / 2**20:,.0f}")
    memory.set_ylabel("peak memory / baseline\n(MB above)")
    memory.axhline(1, color="#555555", linewidth=0.8, linestyle=":")
    finish(figure, f"Training on {results.environment['hardware']}", path)
