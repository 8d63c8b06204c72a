"""A sampler of flows."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.certificates import Certificates, DecodingCertificates
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoiser import AutoDenoiser, Denoiser, OneStep
from tarflow.sampling.denoising import attempt_denoising, can_denoise, wants_denoising
from tarflow.sampling.drawing import draw
from tarflow.sampling.sampler import Sampler


@dataclass(frozen=True)
class FlowSampler(Sampler):
    """Draws samples of a flow, and removes their noise.

    Attributes:
        model: The flow.
        denoise: Whether to denoise too, where the flow was trained with noise that can be removed;
            None: unless its codec decodes noisy samples.
        options: How to decode; `dtype` is the precision of denoising as well, that of `networks`
            is not.
        denoiser: How to denoise.
        certify: Whether samples of a lower precision are checked one by one.
    """

    model: Flow
    denoise: bool | None = None
    options: DecodeOptions = DecodeOptions()
    denoiser: Denoiser = AutoDenoiser()
    certify: bool = True
    _drawn: ChunkSize = field(default_factory=ChunkSize, repr=False)
    _denoised: ChunkSize = field(default_factory=ChunkSize, repr=False)

    @cached_property
    def _prepared(self) -> DecodeOptions:
        """The options, with transformers made ready once for all batches, and certificates."""
        return replace(self.options, certify=self.certify).prepared()

    @property
    def panels(self) -> tuple[str, ...]:
        wanted = wants_denoising(self.model) if self.denoise is None else self.denoise
        denoises = wanted and can_denoise(self.model)
        return ("samples", "denoised") if denoises else ("samples",)

    @property
    def certificates(self) -> type[Certificates]:
        return DecodingCertificates

    @property
    def choices(self) -> dict[str, Any]:
        dtype, guidance = self.options.dtype, self.options.guidance
        networks = self.options.networks
        precision = networks.precision if dtype is None and networks is not None else None
        denoises = "denoised" in self.panels
        denoiser = self.denoiser.fitted(self.model.noise) if denoises else OneStep()
        return {
            "guidance": None if guidance is None else repr(guidance),
            "denoise": denoises,
            **({} if isinstance(denoiser, OneStep) else {"denoiser": repr(denoiser)}),
            "decoder": str(self.options.decoder),
            **({} if dtype is None else {"dtype": str(dtype)}),
            **({} if precision is None else {"precision": str(precision)}),
        }

    def draw(self, indices: range, context: Context) -> tuple[dict[str, Tensor], Certificates]:
        x, report = draw(self.model, indices, context, self.seed, self._drawn, self._prepared)
        panels, fine = {"samples": x}, None
        if "denoised" in self.panels:
            panels["denoised"] = clean = self._clean(x, context, indices)
            fine = clean.isfinite().flatten(1).all(dim=1)
        return panels, DecodingCertificates.of(report, fine)

    def _clean(self, x: Tensor, context: Context, indices: range) -> Tensor:
        """The samples of some indices without their noise."""
        told = {"dtype": self.options.dtype, "max_batch": self._denoised}
        source = ExampleSeeds(self.seed, indices)
        return attempt_denoising(
            self.model, x, context, **told, denoiser=self.denoiser, source=source
        )
