"""The quality of samples in words: means and deviations over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from tarflow.evaluation.reporting import Report, mean_and_deviation, spread

COLUMNS = {
    "frechet_distance": ("Fréchet distance", ".2f"),
    "kernel_distance": ("kernel distance", ".3g"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
}
"""Headings and formats of what is said of every extractor's features."""


def report_of(
    settings: Mapping[str, Any],
    extractors: Sequence[str],
    skipped: Mapping[str, str],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Report:
    """Put the numbers of runs, by kind of samples and seed, in a table.

    The settings are what they depend on; others than the extractors were skipped for a reason.
    """
    values = {name: _over_seeds(scores) for name, scores in runs.items()}
    classified = any("accuracy" in scores for scores in values.values())
    columns = ["samples"]
    for extractor in extractors:
        columns += [f"{heading} ({extractor})" for heading, _ in COLUMNS.values()]
    columns += ["classifier accuracy"] if classified else []
    rows = []
    for name, scores in values.items():
        row = [name]
        for extractor in extractors:
            row += [spread(scores[extractor][key], form) for key, (_, form) in COLUMNS.items()]
        if classified:
            row.append(spread(scores["accuracy"], ".4f") if "accuracy" in scores else "")
        rows.append(row)
    title = (
        f"{settings['num_samples']} samples against the training images of {settings['data']}:"
        f" mean and deviation over {len(settings['seeds'])} seeds"
    )
    found = {**settings, "skipped": dict(skipped), "samples": values}
    notes = [f"{name} is skipped: {reason}" for name, reason in skipped.items()]
    notes += [
        f"{name}: {sum(run['non_finite'] for run in each):g} samples are not finite and left out"
        for name, each in runs.items()
        if any(run["non_finite"] for run in each)
    ]
    lost = {name: count for name, count in settings["unreadable"].items() if count}
    notes += [f"{count} {name} images are left out: unreadable" for name, count in lost.items()]
    return Report("samples", title, columns, rows, found, notes=notes)


def _over_seeds(runs: Sequence[Any]) -> dict[str, Any]:
    """Means and deviations of nested numbers."""
    first = runs[0]
    return {
        key: _over_seeds([run[key] for run in runs])
        if isinstance(first[key], dict)
        else mean_and_deviation([run[key] for run in runs])
        for key in first
    }
