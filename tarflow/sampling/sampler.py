"""A sampler: samples by their index, as pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Codec
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance
from tarflow.flows.noise import GaussianNoise
from tarflow.nn.networks import Networks
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoising import denoise
from tarflow.sampling.drawing import draw, labels_of

COST_ONLY = ("compile",)
"""Options of `flow.sample` that change its time, and not its samples."""


@dataclass(frozen=True)
class Sampler:
    """Draws samples by their index and turns them into pixels.

    Attributes:
        flow: What to sample from; it knows the noise it was trained with.
        seed: Seed of the run.
        classes: The classes that samples go round; None leaves the label out.
        guidance: Moves every prediction away from that of a null context.
        denoise: Whether to denoise too, where the flow was trained with Gaussian noise.
        options: Further options of `flow.sample`; `dtype` is the precision of denoising as well.
    """

    flow: Flow
    seed: int = 0
    classes: Int[Tensor, " classes"] | None = None
    guidance: Guidance | None = None
    denoise: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    _drawn: ChunkSize = field(default_factory=ChunkSize, repr=False)
    _denoised: ChunkSize = field(default_factory=ChunkSize, repr=False)

    @cached_property
    def _networks(self) -> Networks:
        """The transformers, made ready once for all batches."""
        return Networks(self.options.get("dtype"), self.options.get("compile", False))

    @property
    def codec(self) -> Codec:
        """The codec of the flow's training, which tells what is stored.

        Raises:
            ConfigurationError: The flow does not know it.
        """
        if self.flow.codec is None:
            raise ConfigurationError("this flow does not name the codec of its training")
        return self.flow.codec

    @property
    def panels(self) -> tuple[str, ...]:
        """What is made of every sample; the last is the one to keep."""
        denoises = self.denoise and isinstance(self.flow.noise, GaussianNoise)
        return ("samples", "denoised") if denoises else ("samples",)

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of the pixels of a sample, in all panels."""
        pixel_bytes = self.codec.decode(torch.zeros(1)).element_size()
        return self.flow.num_dims * pixel_bytes * len(self.panels)

    @property
    def settings(self) -> dict[str, Any]:
        """All that sample n depends on besides n and the flow, in a form that JSON keeps."""
        options = {
            name: str(value) for name, value in self.options.items() if name not in COST_ONLY
        }
        return {
            "seed": self.seed,
            "label": None if self.classes is None else str(self.classes.tolist()),
            "guidance": None if self.guidance is None else repr(self.guidance),
            "denoise": "denoised" in self.panels,
            **options,
        }

    def label(self, indices: range) -> Int[Tensor, " batch"] | None:
        """The labels of the samples of some indices; None where the label is left out."""
        return None if self.classes is None else labels_of(self.classes, indices)

    def __call__(self, indices: range) -> dict[str, np.ndarray]:
        """Draw the samples of some indices.

        Returns:
            The pixels of each panel, the arrays of `Certificates`, and `labels` if there are any.
        """
        label = self.label(indices)
        options = {k: v for k, v in self.options.items() if k not in ("dtype", "compile")}
        options |= {"guidance": self.guidance, "networks": self._networks}
        x, report = draw(self.flow, indices, label, self.seed, self._drawn, **options)
        arrays = {"samples": self._pixels(x), **Certificates.of(report).arrays}
        if "denoised" in self.panels:
            dtype = self.options.get("dtype")
            clean = denoise(self.flow, x, label, dtype=dtype, max_batch=self._denoised)
            arrays["denoised"] = self._pixels(clean)
        return arrays if label is None else {**arrays, "labels": label.numpy()}

    def _pixels(self, x: Tensor) -> np.ndarray:
        """The integers nearest to x."""
        return self.codec.decode(x).cpu().numpy()
