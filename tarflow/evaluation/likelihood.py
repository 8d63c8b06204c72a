"""Likelihood of a flow on a part of a data set."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from tarflow.arguments import check_integer, shown
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError, DataError, NonFiniteError
from tarflow.evaluation.provenance import content_of, digests, software
from tarflow.evaluation.reporting import Report, mean_and_error
from tarflow.evaluation.work import InMemory, Rows, Work
from tarflow.flows.noise import UniformDequantization
from tarflow.flows.tar_flow import TarFlow
from tarflow.flows.unit import Unit
from tarflow.randomness import ExampleSeeds, ExampleStreams
from tarflow.registry import Part

ROUND_TRIPS = 32
"""Number of images, the first ones, that are mapped to noise and back: that takes long."""

PARTS = ("test", "validation", "train")
UNITS = ("auto", "bits", "nats")


@dataclass(frozen=True)
class LikelihoodMetrics(Part):
    """Evaluates likelihoods: bits/dim with uniform dequantization, nats/dim with Gaussian noise.

    A density of data with Gaussian noise is not one of pixels, so it is never put in bits.

    The headline takes one draw of the noise for each image: its mean bounds the likelihood of the
    pixels from below. The mean density of K draws is a tighter bound (importance-weighted, Burda
    et al., arXiv 1509.00519) and is shown apart, since published numbers take one.

    Attributes:
        split: Part of the data to evaluate on.
        batch_size: Number of images evaluated at a time; does not change the result.
        seed: Seed of the noise that is added to each image.
        importance_samples: Number of draws K of the tighter bound; 1 leaves it out.
        unit: Unit to report in; `auto` is bits where the flow has a density of pixels.
    """

    split: Literal["test", "validation", "train"] = "test"
    batch_size: int = 256
    seed: int = 0
    importance_samples: int = 1
    unit: Literal["auto", "bits", "nats"] = "auto"

    def __post_init__(self):
        check_integer("seed", self.seed)
        for name in ("batch_size", "importance_samples"):
            check_integer(name, getattr(self, name), least=1)
        for name, allowed in (("split", PARTS), ("unit", UNITS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise ConfigurationError(
                    f"{name} {shown(value)} is unknown: choose {', '.join(allowed)}"
                )

    def __call__(self, flow: TarFlow, data: ImageData) -> Report:
        """Evaluate a flow.

        Raises:
            DataError: The data has no such part, or the flow was trained on other data.
            ConfigurationError: A density of pixels was asked for, and the flow has none.
            NonFiniteError: No density is finite.
        """
        rows = self.measure(flow, data, InMemory())
        assert rows is not None
        return self.report(flow, data, rows)

    def measure(self, flow: TarFlow, data: ImageData, work: Work) -> Rows | None:
        """The values of all images, in nats, for `report`; raises as a call does.

        Args:
            flow: The flow.
            data: The data set.
            work: Where they are kept, and who else computes them.
        """
        check_fit(flow, data)
        self._check_unit(flow)
        part = self._part(data)
        flow = flow.eval()
        title = f"likelihood of the {self.split} part"
        compute = partial(self._compute, flow, part)
        rows = work.do(title, len(part), self.batch_size, compute)
        if rows is not None and not np.isfinite(rows["log_prob"]).any():
            pixels, label = _read(part, range(1))
            with torch.no_grad():  # tells which transform it was
                flow.log_prob(*_inputs(flow, pixels, label, ExampleSeeds(self.seed, [0])))
        return rows

    def settings(self, flow: TarFlow, data: ImageData) -> dict[str, Any]:
        """All that the values of an image depend on, besides the weights."""
        return {
            "data": data.name,
            "split": self.split,
            "count": len(self._part(data)),
            "noise": repr(flow.noise),
            "dtype": str(next(flow.parameters()).dtype).removeprefix("torch."),
            "seed": self.seed,
            "importance_samples": self.importance_samples,
            "software": software(),
        }

    def _check_unit(self, flow: TarFlow) -> None:
        """Refuse what a flow without a density of pixels cannot tell."""
        if isinstance(flow.noise, UniformDequantization):
            return
        reason = (
            f"the flow was trained with {flow.noise}: its density is one of noisy data, from which"
            " bits/dim of pixels do not follow"
        )
        if self.unit == "bits":
            raise ConfigurationError(f"{reason}. Leave unit=bits out for its noisy likelihood")
        if self.importance_samples > 1:
            raise ConfigurationError(f"{reason}. Leave importance_samples out")

    def _part(self, data: ImageData) -> Any:
        """The part of the data."""
        part: Any = getattr(data, self.split)
        if part is None:
            raise DataError(f"{data.name} has no {self.split} part: set data.validation_fraction")
        if not len(part):
            raise DataError(f"the {self.split} part of {data.name} is empty")
        return part

    @torch.no_grad()
    def _compute(self, flow: TarFlow, part: Dataset, indices: range) -> Rows:
        """The values of some images; every image has a stream of noise of its own."""
        pixels, label = _read(part, indices)
        streams = ExampleStreams(self.seed, indices)
        draws = [
            _log_prob(flow, *_inputs(flow, pixels, label, streams))
            for _ in range(self.importance_samples)
        ]
        few = range(indices.start, min(indices.stop, ROUND_TRIPS))
        deviation = np.full(len(indices), math.nan)
        if len(few):
            source = ExampleSeeds(self.seed, few)
            first = _inputs(flow, pixels[: len(few)], label[: len(few)], source)
            deviation[: len(few)] = _round_trip(flow, *first)
        return {
            "log_prob": draws[0].numpy(),
            "bound": (torch.stack(draws).logsumexp(dim=0) - math.log(len(draws))).numpy(),
            "label": label.numpy(),
            "deviation": deviation,
            "digest": digests(pixels, label),
        }

    def report(self, flow: TarFlow, data: ImageData, rows: Rows) -> Report:
        """Put the values of `measure` in words and units."""
        unit = Unit.of(flow, self.unit == "nats")
        log_prob, bound = (torch.from_numpy(rows[name]) for name in ("log_prob", "bound"))
        finite = log_prob.isfinite()
        per_image = {"log_prob_nats": log_prob.tolist()}
        if flow.num_classes:
            per_image["label"] = rows["label"].tolist()
        per_image[unit.name] = unit(log_prob).tolist()
        measured = rows["deviation"][:ROUND_TRIPS]
        values: dict = {
            **self.settings(flow, data),
            "content_sha256": content_of(rows["digest"]),
            "non_finite": int((~finite).sum()),
            "largest_round_trip_deviation": float(measured.max()),
            unit.name: mean_and_error(unit(log_prob[finite])),
        }
        return self._tabulated(data, unit, values, per_image, bound)

    def _tabulated(
        self, data: ImageData, unit: Unit, values: dict, per_image: dict, bound: Tensor
    ) -> Report:
        """Add the bound, if there is one, and a table."""
        table = [_row(unit.words, values[unit.name])]
        if self.importance_samples > 1:
            name, draws = f"{unit.name}_bound", self.importance_samples
            per_image[name] = unit(bound).tolist()
            values[name] = mean_and_error(unit(bound[bound.isfinite()]))
            table.append(_row(f"{unit.words}, bound by {draws} draws", values[name]))
        table.append(
            (
                "largest deviation x -> z -> x",
                f"{values['largest_round_trip_deviation']:.1e}",
                "",
                "",
            )
        )
        if values["non_finite"]:
            table.append(("images left out, not finite", str(values["non_finite"]), "", ""))
        title = f"{values['count']} {self.split} images of {data.name}"
        columns = ("", "mean", "standard error", "95 % interval")
        return Report("likelihood", title, columns, table, values, per_image)


def _read(part: Dataset, indices: range) -> tuple[Tensor, Tensor]:
    """Images and labels of a part."""
    [(pixels, label)] = DataLoader(Subset(part, indices), len(indices))
    return pixels, label


def _inputs(
    flow: TarFlow, pixels: Tensor, label: Tensor, source: ExampleSeeds
) -> tuple[Tensor, Tensor | None]:
    """Noisy images and labels, on the flow's device."""
    parameter = next(flow.parameters())
    assert flow.noise is not None
    x = flow.noise(pixels, source, torch.promote_types(parameter.dtype, torch.float32))
    return x.to(parameter.device), label.to(parameter.device) if flow.num_classes else None


def _round_trip(flow: TarFlow, x: Tensor, label: Tensor | None) -> float:
    """How far x -> z -> x leads from x; NaN where that is not finite."""
    try:
        z, _ = flow(x, label)
        return float((flow.inverse(z, label) - x).abs().max())
    except NonFiniteError:
        return math.nan


def _log_prob(flow: TarFlow, x: Tensor, label: Tensor | None) -> Float[Tensor, " batch"]:
    """Log-densities; NaN where they are not finite."""
    try:
        return flow.log_prob(x, label).cpu().double()
    except NonFiniteError:
        labels = [None] * len(x) if label is None else label.split(1)
        return torch.cat([_one(flow, *pair) for pair in zip(x.split(1), labels, strict=True)])


def _one(flow: TarFlow, x: Tensor, label: Tensor | None) -> Float[Tensor, " 1"]:
    """The log-density of one image; NaN where it is not finite."""
    try:
        return flow.log_prob(x, label).cpu().double()
    except NonFiniteError:
        return torch.full((1,), math.nan, dtype=torch.float64)


def _row(name: str, summary: dict[str, Any]) -> tuple[str, str, str, str]:
    """A line of the table."""
    low, high = summary["interval_95"]
    error = f"{summary['standard_error']:.4f}"
    return (name, f"{summary['mean']:.4f}", error, f"{low:.4f} to {high:.4f}")


def check_fit(flow: TarFlow, data: ImageData) -> None:
    """Refuse data that a flow was not made for.

    Raises:
        DataError: Image shape, levels or number of classes differ, or the flow knows no noise.
    """
    if flow.noise is None:
        raise DataError(
            "this checkpoint does not name the noise of its training: convert it again"
            " with noise_std=..."
        )
    pairs = [
        ("image shape", flow.image_shape, data.image_shape),
        ("number of levels", flow.noise.levels, data.levels),
    ]
    if flow.num_classes:
        pairs.append(("number of classes", flow.num_classes, data.num_classes))
    for what, expected, found in pairs:
        if expected != found:
            raise DataError(
                f"{data.name} has {what} {found}, but the flow was made for {expected}"
            )
