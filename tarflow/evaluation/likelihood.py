"""Likelihood of a flow on a part of a data set."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from tarflow.data import ImageData
from tarflow.errors import ConfigurationError, DataError, NonFiniteError
from tarflow.evaluation.provenance import ContentHash, software
from tarflow.evaluation.report import Report, mean_and_error
from tarflow.noise import UniformDequantization
from tarflow.randomness import ExampleSeeds, ExampleStreams
from tarflow.tar_flow import TarFlow


class Batch(NamedTuple):
    """Images as the data set has them, their labels, and where their noise comes from."""

    pixels: Tensor
    label: Tensor
    source: ExampleStreams


class Found(NamedTuple):
    """Values of all images in nats, their labels, and what is known of all of them.

    Attributes:
        log_prob: Log-density of each image with its first draw of noise; NaN if not finite.
        bound: Logarithm of the mean density over all draws.
        label: Label of each image.
        deviation: Largest deviation of the first batch from its round trip.
        content: Hash of images and labels.
    """

    log_prob: Tensor
    bound: Tensor
    label: Tensor
    deviation: float
    content: str


@dataclass(frozen=True)
class Unit:
    """What likelihoods are reported in.

    Attributes:
        name: In files.
        words: In tables.
        noise: Turns log-densities into bits; None for nats.
        num_dims: Number of dimensions of an image.
    """

    name: str
    words: str
    noise: UniformDequantization | None
    num_dims: int

    @classmethod
    def of(cls, flow: TarFlow, in_nats: bool) -> "Unit":
        """The unit for a flow."""
        if not isinstance(flow.noise, UniformDequantization):
            std = getattr(flow.noise, "std", None)
            return cls("noisy_nats_per_dim", f"nats/dim at sigma {std}", None, flow.num_dims)
        if in_nats:
            return cls("nats_per_dim", "nats/dim of dequantized pixels", None, flow.num_dims)
        return cls("bits_per_dim", "bits/dim", flow.noise, flow.num_dims)

    def __call__(self, log_prob: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
        """Log-densities in this unit, per dimension."""
        if self.noise is None:
            return -log_prob / self.num_dims
        return self.noise.bits_per_dim(log_prob, self.num_dims)


@dataclass(frozen=True)
class LikelihoodMetrics:
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
        for name in ("batch_size", "importance_samples"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} {getattr(self, name)} must be at least 1")

    @torch.no_grad()
    def __call__(self, flow: TarFlow, data: ImageData) -> Report:
        """Evaluate a flow.

        Raises:
            DataError: The data has no such part, or the flow was trained on other data.
            ConfigurationError: A density of pixels was asked for, and the flow has none.
            NonFiniteError: No density is finite.
        """
        check_fit(flow, data)
        self._check_unit(flow)
        found = self._evaluate(flow.eval(), data)
        if not found.log_prob.isfinite().any():
            batch = next(self._batches(data))
            flow.log_prob(*_inputs(flow, batch, batch.source))  # tells which transform it was
        return self._report(flow, data, found)

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

    def _evaluate(self, flow: TarFlow, data: ImageData) -> Found:
        """Go through the part once."""
        log_probs, bounds, labels, deviation = [], [], [], None
        content = ContentHash()
        for batch in self._batches(data):
            content.add(batch.pixels, batch.label)
            draws = [_log_prob(flow, batch) for _ in range(self.importance_samples)]
            log_probs.append(draws[0])
            bounds.append(torch.stack(draws).logsumexp(dim=0) - math.log(len(draws)))
            labels.append(batch.label)
            if deviation is None:
                deviation = self._round_trip(flow, batch)
        if deviation is None:
            raise DataError(f"the {self.split} part of {data.name} is empty")
        log_prob, bound, label = (torch.cat(column) for column in (log_probs, bounds, labels))
        return Found(log_prob, bound, label, deviation, str(content))

    def _batches(self, data: ImageData) -> Iterator[Batch]:
        """The part of the data in its order; every image has a stream of noise of its own."""
        part: Any = getattr(data, self.split)
        if part is None:
            raise DataError(f"{data.name} has no {self.split} part: set data.validation_fraction")
        first = 0
        loader = DataLoader(part, self.batch_size)
        for pixels, label in track(loader, description=f"likelihood of the {self.split} part"):
            indices = range(first, first + len(pixels))
            yield Batch(pixels, label, ExampleStreams(self.seed, indices))
            first += len(pixels)

    def _round_trip(self, flow: TarFlow, batch: Batch) -> float:
        """How far x -> z -> x leads from x; NaN where that is not finite."""
        x, label = _inputs(flow, batch, ExampleSeeds(self.seed, batch.source.indices))
        try:
            z, _ = flow(x, label)
            return float((flow.inverse(z, label) - x).abs().max())
        except NonFiniteError:
            return math.nan

    def _report(self, flow: TarFlow, data: ImageData, found: Found) -> Report:
        """Put the numbers in words and units."""
        unit = Unit.of(flow, self.unit == "nats")
        finite = found.log_prob.isfinite()
        per_image = {"log_prob_nats": found.log_prob.tolist()}
        if flow.num_classes:
            per_image["label"] = found.label.tolist()
        per_image[unit.name] = unit(found.log_prob).tolist()
        values: dict = {
            "data": data.name,
            "split": self.split,
            "count": len(finite),
            "content_sha256": found.content,
            "non_finite": int((~finite).sum()),
            "noise": repr(flow.noise),
            "dtype": str(next(flow.parameters()).dtype).removeprefix("torch."),
            "seed": self.seed,
            "largest_round_trip_deviation": found.deviation,
            unit.name: mean_and_error(unit(found.log_prob[finite])),
            "software": software(),
        }
        rows = [_row(unit.words, values[unit.name])]
        if self.importance_samples > 1:
            name, draws = f"{unit.name}_bound", self.importance_samples
            per_image[name] = unit(found.bound).tolist()
            values["importance_samples"] = draws
            values[name] = mean_and_error(unit(found.bound[found.bound.isfinite()]))
            rows.append(_row(f"{unit.words}, bound by {draws} draws", values[name]))
        rows.append(("largest deviation x -> z -> x", f"{found.deviation:.1e}", "", ""))
        if values["non_finite"]:
            rows.append(("images left out, not finite", str(values["non_finite"]), "", ""))
        title = f"{len(finite)} {self.split} images of {data.name}"
        columns = ("", "mean", "standard error", "95 % interval")
        return Report("likelihood", title, columns, rows, values, per_image)


def _inputs(flow: TarFlow, batch: Batch, source: ExampleSeeds) -> tuple[Tensor, Tensor | None]:
    """Noisy images and labels, on the flow's device."""
    parameter = next(flow.parameters())
    assert flow.noise is not None
    x = flow.noise(batch.pixels, source, torch.promote_types(parameter.dtype, torch.float32))
    label = batch.label.to(parameter.device) if flow.num_classes else None
    return x.to(parameter.device), label


def _log_prob(flow: TarFlow, batch: Batch) -> Float[Tensor, " batch"]:
    """Log-densities of the images with the next draw of noise; NaN where they are not finite."""
    x, label = _inputs(flow, batch, batch.source)
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
