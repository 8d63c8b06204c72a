"""Quality of a flow's samples of small labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from sklearn.svm import SVC
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tarflow.chunks import ChunkSize
from tarflow.data import ImageData
from tarflow.denoising import denoise
from tarflow.evaluation.distances import frechet_distance
from tarflow.evaluation.likelihood import check_fit
from tarflow.evaluation.report import Report, mean_and_deviation, spread
from tarflow.guidance import Guidance, LinearGuidance
from tarflow.noise import GaussianNoise
from tarflow.sampling import read_labels, sample_batches
from tarflow.tar_flow import TarFlow

GAMMA = 0.256
"""Sharpness of the classifier's kernel for pixels in [0, 1]: that of scikit-learn's digits."""


@dataclass(frozen=True)
class SampleMetrics:
    """Judges samples by a classifier and by the Fréchet distance in pixel space.

    The classifier, a support vector machine with an RBF kernel, learns the real training images;
    its accuracy is the share of samples that it puts in the class they were asked to be of. Every
    step of the method is also left out once: guidance, denoising, both.

    Attributes:
        num_samples: Number of samples for each seed.
        seeds: Seeds; results are means and deviations over them.
        guidance: The rule for guided samples.
        batch_size: Number of samples drawn at a time; does not change the result.
    """

    num_samples: int = 500
    seeds: Sequence[int] = (0, 1, 2)
    guidance: Guidance = field(default_factory=lambda: LinearGuidance(1.0))
    batch_size: int = 250

    def __call__(self, flow: TarFlow, data: ImageData) -> Report:
        """Evaluate a flow.

        Raises:
            DataError: The flow was made for other data.
        """
        check_fit(flow, data)
        flow = flow.eval()
        train, train_labels = _load(data.train)
        test, test_labels = _load(data.test)
        classifier = None
        if data.num_classes:
            gamma: Any = GAMMA / (data.levels - 1) ** 2
            classifier = SVC(gamma=gamma).fit(train, train_labels)
        results: dict[str, dict[str, list[float]]] = {}
        for name, pixels, labels in self._samples(flow):
            scores = results.setdefault(name, {"frechet_distance": []})
            scores["frechet_distance"].append(frechet_distance(pixels, train))
            if classifier is not None and labels is not None:
                scores.setdefault("accuracy", []).append(classifier.score(pixels, labels))
        values = {
            name: {key: mean_and_deviation(numbers) for key, numbers in scores.items()}
            for name, scores in results.items()
        }
        real = {"frechet_distance": {"mean": frechet_distance(test, train), "deviation": 0.0}}
        if classifier is not None:
            accuracy = float(classifier.score(test, test_labels))
            real["accuracy"] = {"mean": accuracy, "deviation": 0.0}
        return self._report(data, {**values, "real held-out images": real})

    def _samples(self, flow: TarFlow):
        """Pixels and labels of every variant and seed."""
        variants = {"no guidance": None}
        if flow.num_classes:
            variants = {f"guidance {self.guidance.weight:g}": self.guidance, **variants}
        labels = read_labels("all", self.num_samples, flow.num_classes)
        with Progress() as progress:
            total = len(variants) * len(self.seeds) * self.num_samples
            task = progress.add_task("sampling", total=total)
            for seed in self.seeds:
                for name, guidance in variants.items():
                    noisy, clean = [], []
                    chunks = ChunkSize()
                    for x, label in sample_batches(
                        flow, self.num_samples, labels, seed, self.batch_size, guidance
                    ):
                        noisy.append(_pixels(flow, x))
                        if isinstance(flow.noise, GaussianNoise):
                            clean.append(_pixels(flow, denoise(flow, x, label, max_batch=chunks)))
                        progress.advance(task, len(x))
                    if clean:
                        yield f"{name}, denoised", np.concatenate(clean), labels
                    yield f"{name}, not denoised", np.concatenate(noisy), labels

    def _report(self, data: ImageData, values: dict) -> Report:
        """Put the numbers in a table."""
        columns = ["samples", "Fréchet distance (pixels)"]
        if data.num_classes:
            columns.append("classifier accuracy")
        rows = []
        for name, scores in values.items():
            row = [name, spread(scores["frechet_distance"], 2)]
            if data.num_classes:
                row.append(spread(scores["accuracy"], 4) if "accuracy" in scores else "")
            rows.append(row)
        title = (
            f"{self.num_samples} samples against the training images of {data.name}: mean and"
            f" deviation over {len(self.seeds)} seeds"
        )
        settings = {
            "data": data.name,
            "num_samples": self.num_samples,
            "seeds": list(self.seeds),
            "guidance": repr(self.guidance),
        }
        return Report("samples", title, columns, rows, {**settings, "samples": values})


def _load(part: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All images of a part as rows of integers, and their labels."""
    batches = list(DataLoader(part, 1024))
    pixels = torch.cat([pixels for pixels, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    return pixels.flatten(1).numpy(), labels.numpy()


def _pixels(flow: TarFlow, x: Tensor) -> np.ndarray:
    """Samples as rows of integers."""
    assert flow.noise is not None
    return flow.noise.to_pixels(x).flatten(1).cpu().numpy()
