"""Likelihood of a flow on a part of a data set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from tarflow.data import ImageData
from tarflow.errors import DataError
from tarflow.evaluation.report import Report, mean_and_error
from tarflow.noise import GaussianNoise, UniformDequantization
from tarflow.randomness import ExampleSeeds
from tarflow.tar_flow import TarFlow


@dataclass(frozen=True)
class LikelihoodMetrics:
    """Evaluates likelihoods: bits/dim with uniform dequantization, nats/dim with Gaussian noise.

    A density of data with Gaussian noise is not one of pixels, so it is never put in bits.

    Attributes:
        split: Part of the data to evaluate on.
        batch_size: Number of images evaluated at a time; does not change the result.
        seed: Seed of the noise that is added to each image.
    """

    split: Literal["test", "validation", "train"] = "test"
    batch_size: int = 256
    seed: int = 0

    @torch.no_grad()
    def __call__(self, flow: TarFlow, data: ImageData) -> Report:
        """Evaluate a flow.

        Raises:
            DataError: The data has no such part, or the flow was trained on other data.
        """
        check_fit(flow, data)
        flow = flow.eval()
        log_probs, labels, deviation = [], [], 0.0
        for index, (x, label) in enumerate(self._batches(flow, data)):
            log_probs.append(flow.log_prob(x, label).cpu())
            if label is not None:
                labels.append(label.cpu())
            if index == 0:
                z, _ = flow(x, label)
                deviation = float((flow.inverse(z, label) - x).abs().max())
        return self._report(flow, data, torch.cat(log_probs), labels, deviation)

    def _batches(self, flow: TarFlow, data: ImageData) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Noisy images and labels, on the flow's device."""
        part = getattr(data, self.split)
        if part is None:
            raise DataError(f"{data.name} has no {self.split} part: set data.validation_fraction")
        parameter = next(flow.parameters())
        loader = DataLoader(part, self.batch_size)
        first = 0
        for pixels, label in track(loader, description=f"likelihood of the {self.split} part"):
            source = ExampleSeeds(self.seed, range(first, first + len(pixels)))
            first += len(pixels)
            assert flow.noise is not None
            x = flow.noise(pixels, source, torch.promote_types(parameter.dtype, torch.float32))
            yield (
                x.to(parameter.device),
                label.to(parameter.device) if flow.num_classes else None,
            )

    def _report(
        self, flow: TarFlow, data: ImageData, log_prob: Tensor, labels: list, deviation: float
    ) -> Report:
        """Put the numbers in words and units."""
        per_image = {"log_prob_nats": log_prob.tolist()}
        if labels:
            per_image["label"] = torch.cat(labels).tolist()
        values: dict = {
            "data": data.name,
            "split": self.split,
            "count": len(log_prob),
            "noise": repr(flow.noise),
            "dtype": str(next(flow.parameters()).dtype).removeprefix("torch."),
            "seed": self.seed,
            "largest_round_trip_deviation": deviation,
        }
        nats = -log_prob / flow.num_dims
        if isinstance(flow.noise, UniformDequantization):
            name, unit = "bits_per_dim", "bits/dim"
            per_dim = flow.noise.bits_per_dim(log_prob, flow.num_dims)
        else:
            assert isinstance(flow.noise, GaussianNoise)
            name, unit, per_dim = "noisy_nats_per_dim", f"nats/dim at sigma {flow.noise.std}", nats
        per_image[name] = per_dim.tolist()
        values[name] = summary = mean_and_error(per_dim)
        rows = [
            (unit, f"{summary['mean']:.4f}", f"{summary['standard_error']:.4f}"),
            ("largest deviation x -> z -> x", f"{deviation:.1e}", ""),
        ]
        title = f"{len(log_prob)} {self.split} images of {data.name}"
        return Report("likelihood", title, ("", "mean", "standard error"), rows, values, per_image)


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
