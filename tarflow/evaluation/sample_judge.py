"""Draws samples, makes features of them and of real images, and compares these."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from tarflow.data import ImageData
from tarflow.errors import DataError
from tarflow.evaluation import reference
from tarflow.evaluation.provenance import content_of, digests
from tarflow.evaluation.reference import Reference
from tarflow.evaluation.reporting import Report
from tarflow.evaluation.sample_table import report_of
from tarflow.evaluation.work import Rows, Work
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.guidance import Guidance
from tarflow.flows.noise import GaussianNoise
from tarflow.flows.tar_flow import TarFlow
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.denoising import denoise
from tarflow.sampling.drawing import draw, read_labels

if TYPE_CHECKING:
    from tarflow.evaluation.samples import SampleMetrics

GAMMA = 0.256
"""Sharpness of the classifier's kernel for pixels in [0, 1]: that of scikit-learn's digits."""
SMALL = 10_000_000
"""Pixels in the training images that the classifier learns at most."""
REFERENCE_SEED = 0
"""Of the choice among real images, where not all are taken."""

WorkOf = Callable[[str], Work]
"""Where the values of a part of the evaluation are computed, by its name."""


class SampleJudge:
    """Judges the samples of one flow.

    Args:
        metrics: What to do.
        flow: The flow.
        data: The data set.
    """

    def __init__(self, metrics: "SampleMetrics", flow: TarFlow, data: ImageData):
        self.metrics, self.flow, self.data = metrics, flow, data
        self.extractors, self.skipped = metrics.available(data)
        self.labels = read_labels("all", metrics.num_samples, flow.num_classes)
        self.device = next(flow.parameters()).device
        self.options, self.chunks = DecodeOptions().prepared(), ChunkSize()

    def __call__(self, work_of: WorkOf) -> Report | None:
        """Draw, extract features, and compare them."""
        references, real = self._real(work_of)
        found: dict[str, list[Rows]] = {}
        for seed in self.metrics.seeds:
            for variant, guidance in self._variants().items():
                work = work_of(f"seed_{seed}_{variant.replace(' ', '_')}")
                compute = partial(self._draw, seed, guidance)
                title = f"seed {seed}, {variant}"
                size = self.metrics.batch_size
                rows = work.do(title, self.metrics.num_samples, size, compute)
                if rows is None:
                    continue
                for panel in self._panels:
                    found.setdefault(f"{variant}, {panel}", []).append(_of_panel(rows, panel))
        if references is None or real is None:
            return None
        scores = {
            name: [self._scores(rows, references) for rows in runs] for name, runs in found.items()
        }
        held_out = {"real held-out images": [self._scores(real, references)]}
        settings = self.metrics.settings(self.flow, self.data)
        return report_of(settings, list(self.extractors), self.skipped, {**scores, **held_out})

    def _variants(self) -> dict[str, Guidance | None]:
        """With guidance and without."""
        guidance = self.metrics.guidance
        guided = {f"guidance {guidance.weight:g}": guidance} if self.flow.num_classes else {}
        return {**guided, "no guidance": None}

    @property
    def _panels(self) -> tuple[str, ...]:
        """With denoising and without."""
        if isinstance(self.flow.noise, GaussianNoise):
            return ("denoised", "not denoised")
        return ("not denoised",)

    def _draw(self, seed: int, guidance: Guidance | None, indices: range) -> Rows:
        """Features of some samples, and whether the classifier agrees with their labels."""
        noise = self.flow.noise
        assert noise is not None
        label = None if self.labels is None else self.labels[indices.start : indices.stop]
        options = replace(self.options, guidance=guidance)
        x, _ = draw(self.flow, indices, label, seed, self.chunks, options)
        panels = {"not denoised": x}
        if "denoised" in self._panels:
            panels["denoised"] = denoise(self.flow, x, label, max_batch=self.chunks)
        return {
            f"{panel}/{name}": column
            for panel, x in panels.items()
            for name, column in self._judged(noise.to_pixels(x), label).items()
        }

    def _judged(self, pixels: Tensor, label: Tensor | None) -> Rows:
        """Features of images, and whether the classifier agrees with their labels."""
        columns = {
            name: extractor(pixels, self.data.levels).cpu().numpy()
            for name, extractor in self.extractors.items()
        }
        if self.classifier is not None and label is not None:
            told = self.classifier.predict(pixels.flatten(1).cpu().numpy())
            columns["correct"] = told == label.numpy(force=True)
        return columns

    @cached_property
    def classifier(self) -> SVC | None:
        """The classifier, where the data is small and has labels."""
        data = self.data
        if not data.num_classes or len(data.train) * prod(data.image_shape) > SMALL:  # pyright: ignore
            return None
        batches = list(DataLoader(data.train, 1024))
        pixels = torch.cat([pixels for pixels, _ in batches]).flatten(1).numpy()
        gamma: Any = GAMMA / (data.levels - 1) ** 2
        return SVC(gamma=gamma).fit(pixels, torch.cat([y for _, y in batches]).numpy())

    def _real(self, work_of: WorkOf) -> tuple[dict[str, Reference] | None, Rows | None]:
        """What samples are compared with, and the test images in the same terms."""
        part = self._chosen(self.data.train)
        kept = self.metrics.statistics and Path(self.metrics.statistics).expanduser()
        references = None
        if kept and kept.exists():
            seen = work_of("reference").do("real images", len(part), 1024, partial(_digests, part))
            if seen is not None:
                references = reference.load(kept, self._origin(seen))
        else:
            compute = partial(self._features, part)
            rows = work_of("reference").do("real images", len(part), 256, compute)
            if rows is not None:
                references = {name: Reference.of(rows[name]) for name in self.extractors}
                if kept:
                    reference.save(kept, self._origin(rows), references)
        test = self._chosen(self.data.test)
        real = work_of("held_out").do(
            "held-out images", len(test), 256, partial(self._features, test)
        )
        return references, real

    def _origin(self, rows: Rows) -> dict[str, Any]:
        """All that features of real images depend on."""
        return {
            "data": self.data.name,
            "count": len(rows["digest"]),
            "content_sha256": content_of(rows["digest"]),
            "extractors": {name: each.identity for name, each in self.extractors.items()},
            "torch": str(torch.__version__),
        }

    def _chosen(self, part: Any) -> Subset:
        """The images of a part that are looked at."""
        if part is None or not len(part):
            raise DataError(f"{self.data.name} lacks training or test images to compare with")
        most = self.metrics.num_reference
        if most is None or len(part) <= most:
            return Subset(part, range(len(part)))
        order = np.random.default_rng(REFERENCE_SEED).permutation(len(part))
        return Subset(part, np.sort(order[:most]).tolist())

    @torch.no_grad()
    def _features(self, part: Dataset, indices: range) -> Rows:
        """Features of some real images."""
        [(pixels, label)] = DataLoader(Subset(part, indices), len(indices))
        known = label if self.data.num_classes else None
        judged = self._judged(pixels.to(self.device), known)
        return {**judged, "digest": digests(pixels, label)}

    def _scores(self, rows: Rows, references: Mapping[str, Reference]) -> dict[str, Any]:
        """Distances by extractor, and accuracy."""
        scores: dict[str, Any] = {
            name: references[name].compare(rows[name]) for name in self.extractors
        }
        if "correct" in rows:
            scores["accuracy"] = float(rows["correct"].mean())
        return scores


def _digests(part: Dataset, indices: range) -> Rows:
    """What tells real images from others."""
    [(pixels, label)] = DataLoader(Subset(part, indices), len(indices))
    return {"digest": digests(pixels, label)}


def _of_panel(rows: Rows, panel: str) -> Rows:
    """The columns of samples with or without a step."""
    columns: Iterator[tuple[str, str]] = (
        (name, name.removeprefix(f"{panel}/")) for name in rows if name.startswith(f"{panel}/")
    )
    return {short: rows[name] for name, short in columns}
