"""Two flows on the same images with the same noise: what differs is the flows."""

from collections.abc import Sequence
from typing import Any

import torch

from tarflow.errors import DataError
from tarflow.evaluation.reporting import Report, mean_and_error

SAME = ("data", "split", "count", "content_sha256", "codec", "noise", "seed")
"""What two likelihoods must have in common to be compared image by image."""

UNITS = ("bits_per_dim", "nats_per_dim", "noisy_nats_per_dim")


def compare_likelihoods(report: Report, baseline: Report) -> Report:
    """The mean difference of two likelihoods over the same images, with its standard error.

    Images differ by more than flows do; since both flows get the same ones, that cancels, and the
    error of the difference is far smaller than the errors of the two means suggest.

    Args:
        report: The likelihood of a flow.
        baseline: That of another; differences are the first less this one.

    Raises:
        DataError: They are of other images, noise, seeds or units.
    """
    for key in SAME:
        ours, theirs = report.values[key], baseline.values[key]
        if ours != theirs:
            raise DataError(
                f"the likelihoods cannot be compared by images: {key} is {ours} in one and"
                f" {theirs} in the other"
            )
    units = [unit for unit in UNITS if unit in report.values and unit in baseline.values]
    if not units:
        raise DataError("the likelihoods cannot be compared: their units differ")
    [unit] = units
    difference = _tensor(report.per_image[unit]) - _tensor(baseline.per_image[unit])
    finite = difference.isfinite()
    if not finite.any():
        raise DataError("the likelihoods cannot be compared: no image is finite in both")
    summary = mean_and_error(difference[finite])
    low, high = summary["interval_95"]
    values: dict[str, Any] = {
        **{key: report.values[key] for key in SAME},
        "compared": int(finite.sum()),
        "better_share": float((difference[finite] < 0).double().mean()),
        f"{unit}_difference": summary,
    }
    interval, error = f"{low:+.4f} to {high:+.4f}", f"{summary['standard_error']:.4f}"
    rows = [
        (f"difference, {unit}", f"{summary['mean']:+.4f}", error, interval),
        ("share of images that score better", f"{values['better_share']:.3f}", "", ""),
    ]
    title = f"less the baseline, image by image, on {values['compared']} images"
    columns = ("", "mean", "standard error", "95 % interval")
    per_image = {f"{unit}_difference": difference.tolist()}
    return Report("comparison", title, columns, rows, values, per_image)


def _tensor(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
