"""Two flows on the same images with the same noise: what differs is the flows."""

import re

import torch

from tarflow.errors import DataError
from tarflow.evaluation.reporting import SUMMARY, Report, mean_and_error, summary_row

SAME = ("data", "split", "count", "content_sha256", "codec", "noise", "seed")
"""What two likelihoods must have in common to be compared image by image."""

UNIT = re.compile(r"(noisy_)?(bits|nats)_per_(\w+_)?dim")
"""The names of values that are likelihoods."""


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
    shared = report.values.keys() & baseline.values.keys()
    unit = next((name for name in sorted(shared) if UNIT.fullmatch(name)), None)
    if unit is None:
        raise DataError("the likelihoods cannot be compared: their units differ")
    ours, theirs = (
        torch.tensor(each.per_image[unit], dtype=torch.float64) for each in (report, baseline)
    )
    difference = ours - theirs
    finite = difference.isfinite()
    if not finite.any():
        raise DataError("the likelihoods cannot be compared: no image is finite in both")
    summary, count = mean_and_error(difference[finite]), int(finite.sum())
    share = float((difference[finite] < 0).double().mean())
    values = {
        **{key: report.values[key] for key in SAME},
        "compared": count,
        "better_share": share,
        f"{unit}_difference": summary,
    }
    rows = [
        summary_row(f"difference, {unit}", summary, "+"),
        ("share of images that score better", f"{share:.3f}", "", ""),
    ]
    title = f"less the baseline, image by image, on {count} images"
    per_image = {f"{unit}_difference": difference.tolist()}
    return Report("comparison", title, SUMMARY, rows, values, per_image)
