"""What is measured of a fitted density."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tarflow.ablation.baselines import Baseline
from tarflow.ablation.data_sets import MOST_COMPONENTS, whole
from tarflow.ablation.fitting import Fit, log_probs
from tarflow.ablation.principal_components import PrincipalComponents
from tarflow.ablation.variants import Model, Variant
from tarflow.arguments import check_integer
from tarflow.data import ImageData
from tarflow.evaluation.distances import frechet_distance
from tarflow.evaluation.image_features import ImageFeatures
from tarflow.flows.codec import UniformDequantization
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.guidance import GaussianGuidance, Guidance, LinearGuidance, LinearSchedule
from tarflow.flows.noise import GaussianNoise
from tarflow.flows.noise_levels import NoiseLevels
from tarflow.flows.tar_flow import TarFlow
from tarflow.randomness import ExampleSeeds, stream_seed
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoiser import OneStep, ProbabilityFlow, StochasticDenoising
from tarflow.sampling.denoising import attempt_denoising, can_denoise
from tarflow.sampling.drawing import draw

DRAWS = 4
"""Draws of the noise of every test image: some hundred images have little to say otherwise."""
SLOWEST = 1000
"""Passes one after the other that a baseline's sample may take; more of them are not drawn."""
WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0)
RULES = {
    "linear": LinearGuidance,
    "linear, rising": lambda weight: LinearGuidance(weight, schedule=LinearSchedule()),
    "Gaussian": GaussianGuidance,
}

LEVEL = 0.1
"""The noise level at which likelihoods of flows of many are told: that of all other flows."""
LADDERS = {
    "one step": OneStep(),
    "stochastic": StochasticDenoising(20),
    "denoised": ProbabilityFlow(20),
}
"""Ways to denoise samples of flows of many noise levels."""

Samples = Iterator[tuple[str, Tensor, Tensor | None]]
"""Names, pixels and labels of the samples that are finite."""


class Judge:
    """Holds a data set in memory, and measures densities of it by a number of samples.

    Distances are between features of samples and of the training images: pixels, or their leading
    principal components where there are more than 64. A support vector machine that has learned
    the training images, where they are small, tells whether samples show the class that was asked
    for.
    """

    def __init__(self, data: ImageData, num_samples: int):
        self.data = data
        self.num_samples = check_integer("num_samples", num_samples, least=1)
        parts: Any = (data.train, data.validation, data.test)
        self.train, self.validation, self.test = map(whole, parts)
        self.agreement = ImageFeatures(data, {}, torch.device("cpu"))
        self.components = PrincipalComponents.of(self.train.x, MOST_COMPONENTS)
        self.reference = self._features(self.train.x)

    def __call__(self, fitted: Fit, variant: Variant, seed: int) -> dict[str, Any]:
        """All that there is to know about a fitted density."""
        found = self._likelihood(fitted.average)
        if isinstance(fitted.average.noise, NoiseLevels):
            noise = fitted.average.noise.at(LEVEL)
            found[f"at_{LEVEL:g}"] = self._likelihood(fitted.average, noise=noise)
        elif fitted.average.noise == GaussianNoise(LEVEL):
            found[f"at_{LEVEL:g}"] = dict(found)
        found["samples"] = self._qualities(self._samples(fitted.average, seed))
        if variant.guided and isinstance(fitted.average, TarFlow):
            found["raw"] = self._likelihood(fitted.raw)
            raw = self._qualities(self._samples(fitted.raw, seed))
            found["samples"] |= {f"raw, {name}": quality for name, quality in raw.items()}
            found["guidance"] = self._guided(fitted.average, seed)
        return found

    @property
    def real(self) -> dict[str, float]:
        """What real test images score."""
        return self._quality(self.test.x, self.test.context.label)

    def _likelihood(self, model: Model, **options: Any) -> dict[str, Any]:
        """Negative log-likelihood of the test images; options as those of `observe`."""
        draws = [log_probs(model, self.test, 100 + draw, **options) for draw in range(DRAWS)]
        log_prob, num_dims = torch.stack(draws).mean(dim=0), self.test.x[0].numel()
        finite = log_prob[log_prob.isfinite()]
        found: dict[str, Any] = {"non_finite": len(log_prob) - len(finite), "nats_per_dim": None}
        if len(finite):
            found["nats_per_dim"] = float(-finite.mean()) / num_dims
        if len(finite) and isinstance(model.codec, UniformDequantization):
            found["bits_per_dim"] = float(model.codec.bits_per_dim(finite, num_dims).mean())
        return found

    def _samples(self, model: Model, seed: int, guidance: Guidance | None = None) -> Samples:
        """Samples, drawn and denoised."""
        codec: Any = model.codec
        if isinstance(model, Baseline):
            if model.num_passes <= SLOWEST:
                torch.manual_seed(stream_seed(seed, "baseline", 0))
                yield "drawn", codec.decode(model.sample(self.num_samples)), None
            return
        label = self._labels(seed) if model.num_classes else None
        options, sizes = DecodeOptions(guidance).prepared(), ChunkSize(250)
        x, _ = draw(model, range(self.num_samples), label, seed, sizes, options)
        panels = {"drawn": x}
        if can_denoise(model):
            ways = LADDERS if isinstance(model.noise, NoiseLevels) else {"denoised": OneStep()}
            given = {"source": ExampleSeeds(seed, range(self.num_samples)), "max_batch": sizes}
            for name, way in ways.items():
                panels[name] = attempt_denoising(model, x, label, denoiser=way, **given)
        for name, x in panels.items():
            fine = x.isfinite().flatten(1).all(dim=1)
            yield name, codec.decode(x[fine]), None if label is None else label[fine]

    def _labels(self, seed: int) -> Tensor:
        """Labels that are as frequent as in training."""
        generator = torch.Generator().manual_seed(stream_seed(seed, "classes", 0))
        labels = self.train.context["label"]
        return labels[torch.randint(len(labels), (self.num_samples,), generator=generator)]

    def _guided(self, flow: TarFlow, seed: int) -> dict[str, dict[str, Any]]:
        """The quality of samples by rule and weight."""
        found: dict[str, dict[str, Any]] = {name: {} for name in RULES}
        for (name, rule), weight in product(RULES.items(), WEIGHTS):
            *_, (_, pixels, label) = self._samples(flow, seed, rule(weight))
            found[name][f"{weight:g}"] = self._counted(pixels, label)
        return found

    def _qualities(self, samples: Samples) -> dict[str, dict[str, Any]]:
        """The quality of samples by name."""
        return {name: self._counted(pixels, label) for name, pixels, label in samples}

    def _counted(self, pixels: Tensor, label: Tensor | None) -> dict[str, Any]:
        """The quality of samples, and how many more were not finite, where some were not."""
        lost = self.num_samples - len(pixels)
        return {**self._quality(pixels, label), **({"non_finite": lost} if lost else {})}

    def _quality(self, pixels: Tensor, label: Tensor | None) -> dict[str, Any]:
        """Distance from the training images, and agreement with labels."""
        if len(pixels) < 2:  # which have no covariance
            return {"frechet_distance": None}
        found = {"frechet_distance": frechet_distance(self._features(pixels), self.reference)}
        correct = self.agreement(pixels, label).get("correct")
        return found if correct is None else {**found, "accuracy": float(correct.mean())}

    def _features(self, pixels: Tensor) -> np.ndarray:
        """Coordinates along the principal axes, in units of the range of pixels."""
        return self.components(pixels, self.data.codec).numpy()
