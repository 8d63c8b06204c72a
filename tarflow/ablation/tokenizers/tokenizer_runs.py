"""Runs of the study of tokenizers: tokenizers, and flows of pixels and of their latents."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from tarflow.ablation.data_sets import data_of, whole
from tarflow.ablation.sampled_run import FittedRun, SampledRun
from tarflow.ablation.small_flow import fit_flow, recipe
from tarflow.ablation.tokenizers.learning import FITTING, learn, tune
from tarflow.ablation.tokenizers.recipes import RECIPES
from tarflow.ablation.tokenizers.reconstructing import reconstruction
from tarflow.ablation.variants import LOWEST
from tarflow.data import ArrayDataset, ImageData
from tarflow.flows.flow import Flow
from tarflow.flows.noise import GaussianNoise
from tarflow.flows.noise_levels import UniformLevels
from tarflow.flows.pretrained import load
from tarflow.tokenizers import Autoencoder, Tokenizer

PIXELS = {"patch_size": 4}
"""Images of 32 x 32 become sequences of 64."""
LATENTS = {"patch_size": 2}
"""Latents of 8 x 8 become sequences of 16."""
NOISE = 0.3
"""On latents, whose channels have variance 1; fixed variance comes with noise of its own."""


@dataclass(frozen=True)
class TokenizerRun(FittedRun):
    """A tokenizer, judged by what it keeps of images."""

    tokenizer: str

    @property
    def variant(self) -> str:
        return f"tokenizer_{self.tokenizer}"

    @property
    def recipe(self) -> dict[str, Any]:
        return {**RECIPES[self.tokenizer].settings, **FITTING}

    def fit(self) -> tuple[Autoencoder, dict[str, Any]]:
        return learn(RECIPES[self.tokenizer], data_of(self.data), self.seconds, self.seed)

    def judged(self, model: Autoencoder) -> dict[str, Any]:
        return reconstruction(model, self.data)


@dataclass(frozen=True)
class PixelRun(SampledRun):
    """A flow of pixels."""

    before: float = 0.0  # seconds more, as a tokenizer takes

    @property
    def variant(self) -> str:
        return "pixels_longer" if self.before else "pixels"

    @property
    def recipe(self) -> dict[str, Any]:
        return recipe(**PIXELS)

    def fit(self) -> tuple[Flow, dict[str, Any]]:
        seconds = self.seconds + self.before
        flow, counts = fit_flow(data_of(self.data), seconds, self.seed, **PIXELS)
        return flow, {**counts, "training": {"own": seconds, "in_all": seconds}}


@dataclass(frozen=True)
class LatentRun(SampledRun):
    """A flow of the latents of a tokenizer, which has to be there."""

    tokenizer: TokenizerRun
    levels: bool = False  # whether it learns all levels of the noise

    @property
    def variant(self) -> str:
        return f"{'levels' if self.levels else 'latents'}_{self.tokenizer.tokenizer}"

    @property
    def recipe(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.settings, **recipe(**self._changes)}

    @property
    def _changes(self) -> dict[str, Any]:
        """What differs from other flows."""
        own = RECIPES[self.tokenizer.tokenizer].bottleneck.decodes_noise
        noise = UniformLevels(LOWEST, NOISE) if self.levels else GaussianNoise(own or NOISE)
        return {**LATENTS, "noise": noise}

    def fit(self) -> tuple[Flow, dict[str, Any]]:
        """Encode all images once, and fit the flow in the rest of the time."""
        start = time.process_time()
        data = in_latents(data_of(self.data), load(self.tokenizer.pretrained))
        left = max(0.0, self.seconds - (time.process_time() - start))
        flow, counts = fit_flow(data, left, self.seed, **self._changes)
        training = {"own": self.seconds, "in_all": self.seconds + self.tokenizer.seconds}
        return flow, {**counts, "training": training}


@dataclass(frozen=True)
class TunedRun(SampledRun):
    """A flow of latents, which has to be there, with a decoder that removes their noise."""

    flow: LatentRun

    @property
    def variant(self) -> str:
        return f"tuned_{self.flow.tokenizer.tokenizer}"

    @property
    def recipe(self) -> dict[str, Any]:
        return {"flow": self.flow.settings, "noise": NOISE, **FITTING}

    def fit(self) -> tuple[Flow, dict[str, Any]]:
        flow = load(self.flow.pretrained)
        told = (data_of(self.data), self.seconds, self.seed)
        tuned, counts = tune(flow.codec, NOISE, *told)
        flow.codec, flow.description = tuned, replace(flow.description, codec=tuned)
        before = self.flow.seconds + self.flow.tokenizer.seconds
        training = {"own": self.seconds, "in_all": self.seconds + before}
        return flow, {**counts, "training": training}


@torch.no_grad()
def in_latents(data: ImageData, tokenizer: Tokenizer) -> ImageData:
    """The latents of a data set."""
    batches = {name: whole(part) for name, part in data.parts.items()}
    return ImageData.of(
        data.name,
        {n: ArrayDataset(tokenizer.encode(b.x), b.context.label) for n, b in batches.items()},
        codec=tokenizer,
        num_classes=data.num_classes,
        image_shape=tokenizer.latent_shape,
        class_names=data.class_names,
    )
