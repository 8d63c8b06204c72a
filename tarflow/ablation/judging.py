"""What is measured of a fitted density."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tarflow.ablation.fitting import Fit, log_probs
from tarflow.ablation.variants import Encoding, Variant
from tarflow.data import ImageData
from tarflow.data.loading.batches import Batch, read_batch
from tarflow.errors import NonFiniteError
from tarflow.evaluation.distances import frechet_distance
from tarflow.evaluation.image_features import classifier_of
from tarflow.flows.codec import UniformDequantization
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import GaussianGuidance, Guidance, LinearGuidance, LinearSchedule
from tarflow.flows.noise import GaussianNoise
from tarflow.randomness import stream_seed
from tarflow.sampling.denoising import denoise
from tarflow.sampling.drawing import sample_batches

DRAWS = 4
"""Draws of the noise of every test image: some hundred images have little to say otherwise."""
SLOWEST = 1000
"""Passes one after the other that a baseline's sample may take; more of them are not drawn."""
MOST_COMPONENTS = 64
"""Features of the Fréchet distance; more need more samples than are drawn."""
WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0)
RULES = {
    "linear": LinearGuidance,
    "linear, rising": lambda weight: LinearGuidance(weight, schedule=LinearSchedule()),
    "Gaussian": GaussianGuidance,
}


@dataclass(frozen=True)
class Loaded:
    """A data set in memory."""

    data: ImageData
    train: Batch
    validation: Batch
    test: Batch

    @classmethod
    def of(cls, data: ImageData) -> "Loaded":
        """Read all parts."""
        parts: Any = (data.train, data.validation, data.test)
        return cls(data, *(read_batch(part, range(len(part))) for part in parts))


class Judge:
    """Measures densities of one data set.

    Distances are between features of samples and of the training images: pixels, or their leading
    principal components where there are more than 64. A support vector machine that has learned
    the training images tells whether samples show the class that was asked for.

    Args:
        loaded: The data set.
        num_samples: Number of samples for each distance.
        classify: Whether to train the classifier.
    """

    def __init__(self, loaded: Loaded, num_samples: int, classify: bool):
        self.loaded = loaded
        self.num_samples = num_samples
        self.codec: Any = loaded.data.codec
        images = loaded.train.x
        flat = images.flatten(1).double()
        self.mean = flat.mean(dim=0)
        covariance = flat.T.cov()
        self.axes = torch.linalg.eigh(covariance).eigenvectors[:, -MOST_COMPONENTS:]
        self.reference = self._features(images)
        self.classifier = None
        if classify:
            self.classifier = classifier_of(self.codec, images, loaded.train.context["label"])

    def __call__(self, fitted: Fit, variant: Variant, seed: int) -> dict[str, Any]:
        """All that there is to know about a fitted density."""
        encoding = variant.encoding(self.loaded.data)
        found: dict[str, Any] = self._likelihood(fitted.average, encoding)
        found["samples"] = {}
        for name, pixels, label in self._samples(fitted.average, encoding, seed):
            found["samples"][name] = self._quality(pixels, label)
        if variant.guided and isinstance(fitted.average, Flow):
            found["raw"] = self._likelihood(fitted.raw, encoding)
            for name, pixels, label in self._samples(fitted.raw, encoding, seed):
                found["samples"][f"raw, {name}"] = self._quality(pixels, label)
            found["guidance"] = self._guided(fitted.average, encoding, seed)
        return found

    @property
    def real(self) -> dict[str, float]:
        """What real test images score."""
        return self._quality(self.loaded.test.x, self.loaded.test.context.label)

    def _likelihood(self, model: nn.Module, encoding: Encoding) -> dict[str, Any]:
        """Negative log-likelihood of the test images."""
        test, draws = self.loaded.test, []
        for draw in range(DRAWS):
            x = encoding(test.x, torch.Generator().manual_seed(100 + draw))
            draws.append(log_probs(model, x, test.context))
        log_prob, num_dims = torch.stack(draws).mean(dim=0), test.x[0].numel()
        finite = log_prob[log_prob.isfinite()]
        found: dict[str, Any] = {"non_finite": len(log_prob) - len(finite)}
        if not len(finite):
            return {**found, "nats_per_dim": None}
        found["nats_per_dim"] = float(-finite.mean()) / num_dims
        if isinstance(encoding.codec, UniformDequantization):
            found["bits_per_dim"] = float(encoding.codec.bits_per_dim(finite, num_dims).mean())
        return found

    def _samples(
        self, model: nn.Module, encoding: Encoding, seed: int, guidance: Guidance | None = None
    ) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
        """Pixels and labels of samples, drawn and denoised; None where they are not finite."""
        decode = encoding.codec.decode
        if not isinstance(model, Flow):
            if getattr(model, "num_passes", 0) <= SLOWEST:
                torch.manual_seed(stream_seed(seed, "baseline", 0))
                x: Any = model.sample(self.num_samples)  # pyright: ignore
                yield "drawn", decode(x), None
            return
        try:
            x, label = self._draw(model, seed, guidance)
        except NonFiniteError:
            yield "drawn", None, None
            return
        yield "drawn", decode(x), label
        if isinstance(encoding.noise, GaussianNoise):
            try:
                yield "denoised", decode(denoise(model, x, label, max_batch=250)), label
            except NonFiniteError:
                yield "denoised", None, None

    def _draw(
        self, flow: Flow, seed: int, guidance: Guidance | None
    ) -> tuple[Tensor, Tensor | None]:
        """Samples whose classes are as frequent as in training."""
        labels = None
        if flow.num_classes:
            generator = torch.Generator().manual_seed(stream_seed(seed, "classes", 0))
            all_labels = self.loaded.train.context["label"]
            rows = torch.randint(len(all_labels), (self.num_samples,), generator=generator)
            labels = all_labels[rows]
        batches = sample_batches(flow, self.num_samples, labels, seed, 250, guidance=guidance)
        return torch.cat([x for x, _ in batches]), labels

    def _guided(self, flow: Flow, encoding: Encoding, seed: int) -> dict[str, dict[str, Any]]:
        """The quality of samples by rule and weight."""
        found: dict[str, dict[str, Any]] = {}
        for name, rule in RULES.items():
            found[name] = {}
            for weight in WEIGHTS:
                *_, (_, pixels, label) = self._samples(flow, encoding, seed, rule(weight))
                found[name][f"{weight:g}"] = self._quality(pixels, label)
        return found

    def _quality(self, pixels: Tensor | None, label: Tensor | None) -> dict[str, Any]:
        """Distance from the training images, and agreement with labels."""
        if pixels is None:
            return {"frechet_distance": None}
        features = self._features(pixels)
        found: dict[str, Any] = {"frechet_distance": frechet_distance(features, self.reference)}
        if self.classifier is not None and label is not None:
            rows = pixels.flatten(1).double().numpy()
            found["accuracy"] = float(self.classifier.score(rows, label.numpy()))
        return found

    def _features(self, pixels: Tensor) -> np.ndarray:
        """Coordinates along the principal axes, in units of the range of pixels."""
        centred = pixels.flatten(1).double() - self.mean
        return (centred @ self.axes).numpy() / self.codec.largest
