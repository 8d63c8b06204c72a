"""Draws samples and makes features of them."""

from dataclasses import replace
from typing import Any

from torch.utils.data import Subset

from tarflow.data.loading.reading import ReadAhead
from tarflow.evaluation.image_features import ImageFeatures
from tarflow.evaluation.work import Rows
from tarflow.flows.context import Context
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance
from tarflow.randomness import ExampleSeeds
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoiser import AutoDenoiser, Denoiser
from tarflow.sampling.denoising import attempt_denoising, can_denoise
from tarflow.sampling.drawing import draw, in_turn, read_classes


class SampleJudge:
    """Draws samples of a flow and makes features of them.

    Labels go round the classes. Other parts of a context that the flow knows are those of the
    data's training examples, one after the other.
    """

    def __init__(self, flow: Flow, features: ImageFeatures, denoiser: Denoiser = AutoDenoiser()):
        self.flow, self.features, self.denoiser = flow, features, denoiser
        self.classes = read_classes("all", flow.num_classes)
        self.options, self.chunks = DecodeOptions().prepared(), ChunkSize()

    @property
    def panels(self) -> tuple[str, ...]:
        """With denoising and without."""
        return ("denoised", "not denoised") if can_denoise(self.flow) else ("not denoised",)

    def __call__(self, seed: int, guidance: Guidance | None, indices: range) -> Rows:
        """Features of some samples in every panel, whose name comes first in those of columns."""
        codec, context = self.flow.codec, self.context(indices)
        assert codec is not None
        options = replace(self.options, guidance=guidance)
        x, _ = draw(self.flow, indices, context, seed, self.chunks, options)
        panels = {"not denoised": x}
        if "denoised" in self.panels:
            told = {"denoiser": self.denoiser, "source": ExampleSeeds(seed, indices)}
            panels["denoised"] = attempt_denoising(
                self.flow, x, context, max_batch=self.chunks, **told
            )
        rows: Rows = {}
        for panel, x in panels.items():
            columns = self.features(codec.decode(x), context.label)
            columns["finite"] = x.isfinite().flatten(1).all(dim=1).cpu().numpy()
            rows |= {f"{panel}/{name}": column for name, column in columns.items()}
        return rows

    def context(self, indices: range) -> Context:
        """What the samples of some indices are conditioned on."""
        label = None if self.classes is None else in_turn(self.classes, indices)
        train: Any = self.features.data.train
        known = {conditioner.part for conditioner in self.flow.conditioners} - {"label"}
        if not known & set(ReadAhead(train)(range(1)).context):
            return Context(label=label)
        repeated = Subset(train, [index % len(train) for index in indices])
        context = ReadAhead(repeated)(range(len(indices))).context
        return self.flow.known(context).updated(label=label)
