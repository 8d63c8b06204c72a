"""Quality of a flow's samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tarflow.arguments import check_integer, keep, shown
from tarflow.data import ImageData
from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import ConfigurationError, DataError
from tarflow.evaluation.extractors import Extractor, Inception, PixelFeatures, UnavailableError
from tarflow.evaluation.image_features import ImageFeatures
from tarflow.evaluation.metrics import Metrics, WorkOf, check_fit
from tarflow.evaluation.provenance import of_readable, software
from tarflow.evaluation.reference import Reference, chosen, references_of
from tarflow.evaluation.reporting import Report
from tarflow.evaluation.sample_judge import SampleJudge
from tarflow.evaluation.sample_table import report_of
from tarflow.evaluation.work import Rows
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance, LinearGuidance
from tarflow.sampling.denoiser import AutoDenoiser, Denoiser
from tarflow.sampling.denoising import can_denoise


@dataclass(frozen=True)
class SampleMetrics(Metrics):
    """Judges samples by distances between features of them and of real training images.

    For every extractor of features: the Fréchet distance, the kernel distance, precision and
    recall. What an extractor needs and cannot find leaves out its columns, with the reason. A
    classifier that has learned the training images, a support vector machine with an RBF kernel,
    tells for small labelled data what share of samples is of the class that was asked for. Every
    step of the method is also left out once: guidance, denoising, both.

    Attributes:
        num_samples: Number of samples for each seed.
        seeds: Seeds; results are means and deviations over them.
        guidance: The rule for guided samples.
        denoiser: How noise is removed, of flows trained with it.
        batch_size: Number of samples drawn at a time; does not change the result.
        extractors: What makes features, by name.
        num_reference: Number of training images that samples are compared with, chosen at
            random where there are more; None for all.
        statistics: A file that keeps the features of these from one evaluation to the next.
    """

    num_samples: int = 500
    seeds: Sequence[int] = (0, 1, 2)
    guidance: Guidance = field(default_factory=lambda: LinearGuidance(1.0))
    batch_size: int = 250
    extractors: Mapping[str, Extractor] = field(
        default_factory=lambda: {"pixels": PixelFeatures(), "inception": Inception()}
    )
    num_reference: int | None = 50_000
    statistics: Path | str | None = None
    denoiser: Denoiser = AutoDenoiser()
    name: ClassVar[str] = "samples"

    def __post_init__(self):
        for name, least in (("num_samples", 4), ("batch_size", 1), ("num_reference", 4)):
            if name != "num_reference" or self.num_reference is not None:
                keep(self, **{name: check_integer(name, getattr(self, name), least)})
        if isinstance(self.seeds, str) or not isinstance(self.seeds, Sequence):
            raise ConfigurationError(f"seeds {shown(self.seeds)} are not a list of integers")
        keep(self, seeds=tuple(check_integer("one of seeds,", seed) for seed in self.seeds))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(
                f"seeds {list(self.seeds)} must be one or more, all different"
            )

    def evaluate(self, flow: Flow, data: ImageData, work_of: WorkOf) -> Report | None:
        """Evaluate a flow, with other processes perhaps.

        Raises:
            DataError: The flow was made for other data, the data lacks training or test images,
                or the kept statistics are of other images or features.
        """
        check_fit(flow, data)
        for part in (data.train, data.test):
            if part is None or not len(part):  # pyright: ignore[reportArgumentType]
                raise DataError(f"{data.name} lacks training or test images to compare with")
        usable, skipped = self._available(data)
        features = ImageFeatures(data, usable, flow.base.anchor.device)
        kept = Path(self.statistics).expanduser() if self.statistics else None
        part = chosen(data.train, self.num_reference)
        known = references_of(features, part, kept, work_of)
        part, work = chosen(data.test, self.num_reference), work_of("held_out")
        compute = partial(features.of_part, ReadAhead(part, work.num_workers))
        real = work.do("held-out images", len(part), 256, compute)
        runs = self._draw(SampleJudge(flow.eval(), features, self.denoiser), work_of)
        if known is None or real is None:
            return None
        references, lost = known
        total, real = len(real["digest"]), of_readable(real)
        unreadable = {"training": lost, "held-out": total - len(real["digest"])}
        runs["real held-out images"] = [real]
        scores = {name: [_scores(rows, references) for rows in runs[name]] for name in runs}
        settings = {**self.settings(flow, data), "unreadable": unreadable}
        return report_of(settings, list(usable), skipped, scores)

    def settings(self, flow: Flow, data: ImageData) -> dict[str, Any]:
        """All that the values depend on, besides the weights."""
        return {
            "data": data.name,
            "num_samples": self.num_samples,
            "seeds": list(self.seeds),
            "guidance": repr(self.guidance),
            "denoiser": repr(self.denoiser.fitted(flow.noise)) if can_denoise(flow) else None,
            "codec": repr(flow.codec),
            "noise": repr(flow.noise),
            "dtype": str(flow.base.anchor.dtype).removeprefix("torch."),
            "num_reference": self.num_reference,
            "extractors": {k: each.identity for k, each in self._available(data)[0].items()},
            "software": software(),
        }

    def _available(self, data: ImageData) -> tuple[dict[str, Extractor], dict[str, str]]:
        """The extractors that can be used, and why the others cannot."""
        usable, skipped = {}, {}
        for name, extractor in self.extractors.items():
            try:
                extractor.check(data.image_shape)
                usable[name] = extractor
            except UnavailableError as error:
                skipped[name] = str(error)
        return usable, skipped

    def _draw(self, judge: SampleJudge, work_of: WorkOf) -> dict[str, list[Rows]]:
        """Features of samples for each seed, by what was left out."""
        found: dict[str, list[Rows]] = {}
        guided = {f"guidance {self.guidance.weight:g}": self.guidance}
        variants = {**(guided if judge.context(range(1)).parts else {}), "no guidance": None}
        for seed, (variant, guidance) in product(self.seeds, variants.items()):
            work = work_of(f"seed_{seed}_{variant.replace(' ', '_')}")
            compute, title = partial(judge, seed, guidance), f"seed {seed}, {variant}"
            rows = work.do(title, self.num_samples, self.batch_size, compute)
            if rows is not None:
                for panel in judge.panels:
                    start = f"{panel}/"
                    own = {k.removeprefix(start): rows[k] for k in rows if k.startswith(start)}
                    found.setdefault(f"{variant}, {panel}", []).append(own)
        return found


def _scores(rows: Rows, references: Mapping[str, Reference]) -> dict[str, Any]:
    """Distances by extractor, and accuracy, of what is finite, and how much is not."""
    fine = rows.get("finite", np.ones(len(next(iter(rows.values()))), bool))
    kept = {name: column[fine] for name, column in rows.items()}
    scores: dict[str, Any] = {name: r.compare(kept[name]) for name, r in references.items()}
    if "correct" in kept:
        scores["accuracy"] = float(kept["correct"].mean()) if fine.any() else math.nan
    return {**scores, "non_finite": float((~fine).sum())}
