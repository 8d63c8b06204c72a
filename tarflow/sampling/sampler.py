"""A sampler: samples by their index, as pixels."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.flows.codec import Codec
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoiser import AutoDenoiser, Denoiser, OneStep
from tarflow.sampling.denoising import attempt_denoising, can_denoise
from tarflow.sampling.drawing import draw, in_turn


@dataclass(frozen=True)
class Sampler:
    """Draws samples by their index and turns them into pixels.

    Attributes:
        classes: The classes that samples go round; None leaves the label out.
        denoise: Whether to denoise too, where the flow was trained with noise that can be removed.
        options: How to decode; `dtype` is the precision of denoising as well.
        others: Rows of other conditions than the label, which samples go round.
        denoiser: How to denoise.
    """

    flow: Flow
    seed: int = 0
    classes: Int[Tensor, " classes"] | None = None
    denoise: bool = True
    options: DecodeOptions = DecodeOptions()
    others: Context = Context()
    denoiser: Denoiser = AutoDenoiser()
    _drawn: ChunkSize = field(default_factory=ChunkSize, repr=False)
    _denoised: ChunkSize = field(default_factory=ChunkSize, repr=False)

    @cached_property
    def _prepared(self) -> DecodeOptions:
        """The options, with transformers made ready once for all batches, and certificates."""
        return replace(self.options, certify=True).prepared()

    @property
    def codec(self) -> Codec:
        """The codec of the flow's training, which the flow has to know."""
        if self.flow.codec is None:
            raise ConfigurationError("this flow does not name the codec of its training")
        return self.flow.codec

    @property
    def panels(self) -> tuple[str, ...]:
        """What is made of every sample; the last is the one to keep."""
        denoises = self.denoise and can_denoise(self.flow)
        return ("samples", "denoised") if denoises else ("samples",)

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of the pixels of a sample, in all panels."""
        pixel_bytes = self.codec.decode(torch.zeros(1)).element_size()
        return self.flow.num_dims * pixel_bytes * len(self.panels)

    @property
    def settings(self) -> dict[str, Any]:
        """All that sample n depends on besides n and the flow, in a form that JSON keeps."""
        dtype, guidance = self.options.dtype, self.options.guidance
        denoises = "denoised" in self.panels
        denoiser = self.denoiser.fitted(self.flow.noise) if denoises else OneStep()
        return {
            "seed": self.seed,
            "label": None if self.classes is None else str(self.classes.tolist()),
            "guidance": None if guidance is None else repr(guidance),
            "denoise": denoises,
            **({} if isinstance(denoiser, OneStep) else {"denoiser": repr(denoiser)}),
            "decoder": str(self.options.decoder),
            **({} if dtype is None else {"dtype": str(dtype)}),
            **{name: str(rows.tolist()) for name, rows in self.others.parts.items()},
        }

    def context(self, indices: range) -> Context:
        """What the samples of some indices are conditioned on."""
        others = self.others.map(lambda rows: in_turn(rows, indices))
        label = None if self.classes is None else in_turn(self.classes, indices)
        return others.updated(label=label)

    def __call__(self, indices: range) -> dict[str, np.ndarray]:
        """Draw the samples of some indices.

        Returns:
            The pixels of each panel, the arrays of `Certificates`, and `labels` if there are any.
            What is not finite has black pixels, and its certificate tells why.
        """
        context = self.context(indices)
        x, report = draw(self.flow, indices, context, self.seed, self._drawn, self._prepared)
        arrays, fine = {"samples": self._pixels(x)}, None
        if "denoised" in self.panels:
            clean = self._clean(x, context, indices)
            arrays["denoised"] = self._pixels(clean)
            fine = clean.isfinite().flatten(1).all(dim=1)
        arrays |= vars(Certificates.of(report, fine))
        return arrays if context.label is None else {**arrays, "labels": context.label.numpy()}

    def _clean(self, x: Tensor, context: Context, indices: range) -> Tensor:
        """The samples of some indices without their noise."""
        told = {"dtype": self.options.dtype, "max_batch": self._denoised}
        source = ExampleSeeds(self.seed, indices)
        return attempt_denoising(
            self.flow, x, context, **told, denoiser=self.denoiser, source=source
        )

    def _pixels(self, x: Tensor) -> np.ndarray:
        """The integers nearest to x."""
        return self.codec.decode(x).cpu().numpy()
