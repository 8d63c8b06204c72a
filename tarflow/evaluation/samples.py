"""Quality of samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tarflow.arguments import check_integer, keep, shown
from tarflow.data import DividedData
from tarflow.data.images import check_images
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
from tarflow.evaluation.ways import FlowWays, StudentWays, Ways
from tarflow.evaluation.work import Rows
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance, LinearGuidance
from tarflow.sampling.denoiser import AutoDenoiser, Denoiser
from tarflow.students.student import Student
from tarflow.tokenizers import Tokenizer

Model = Flow | Student
"""What samples are drawn from."""

HELD_OUT = "real held-out images"
"""What the scores of these are called in a report: a yardstick for those of samples."""


@dataclass(frozen=True)
class RealImages:
    """What samples are compared with.

    Attributes:
        references: Features of training images, by extractor.
        rows: Features of held-out images, to be scored as samples are.
        unreadable: How many images of either part could not be read.
    """

    references: Mapping[str, Reference]
    rows: Rows
    unreadable: Mapping[str, int]

    @property
    def held_out(self) -> dict[str, Any]:
        """The scores of held-out images."""
        return self.scores(self.rows)

    def scores(self, rows: Rows) -> dict[str, Any]:
        """Distances by extractor, and accuracy, of what is finite, and how much is not."""
        fine = rows.get("finite", np.ones(len(next(iter(rows.values()))), bool))
        kept = {name: column[fine] for name, column in rows.items()}
        scores: dict[str, Any] = {
            name: reference.compare(kept[name]) for name, reference in self.references.items()
        }
        if "correct" in kept:
            scores["accuracy"] = float(kept["correct"].mean()) if fine.any() else math.nan
        return {**scores, "non_finite": float((~fine).sum())}


@dataclass(frozen=True)
class SampleMetrics(Metrics):
    """Judges samples by distances between features of them and of real training images.

    For every extractor of features: the Fréchet distance, the kernel distance, precision and
    recall. What an extractor needs and cannot find leaves out its columns, with the reason. A
    classifier that has learned the training images, a support vector machine with an RBF kernel,
    tells for small labelled data what share of samples is of the class that was asked for. Every
    step of the method is also left out once: guidance, denoising, both.

    A student is drawn from in one pass or several, with the weight of guidance and without.

    Attributes:
        num_samples: Number of samples for each seed.
        seeds: Seeds; results are means and deviations over them.
        guidance: The rule for guided samples.
        denoiser: How noise is removed, of flows trained with it.
        batch_size: Number of samples drawn at a time; does not change the result.
        extractors: What makes features, by name.
        num_reference: Number of training images that samples are compared with, chosen at
            random where there are more; None for all.
        steps: Numbers of steps of a student; None for its own.
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
    steps: int | Sequence[int] | None = None
    name: ClassVar[str] = "samples"

    def __post_init__(self):
        for name, least in (("num_samples", 4), ("batch_size", 1), ("num_reference", 4)):
            if name != "num_reference" or self.num_reference is not None:
                keep(self, **{name: check_integer(name, getattr(self, name), least)})
        if isinstance(self.seeds, str) or not isinstance(self.seeds, Sequence):
            raise ConfigurationError(f"seeds {shown(self.seeds)} are not a list of integers")
        keep(self, seeds=tuple(check_integer("one of seeds,", seed) for seed in self.seeds))
        _read_steps(self.steps)  # which checks them
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(
                f"seeds {list(self.seeds)} must be one or more, all different"
            )

    def check(self, model: Any) -> None:
        """Refuse, by a `ConfigurationError`, what is neither a flow nor a student."""
        if not isinstance(model, Student):
            super().check(model)

    def evaluate(self, flow: Model, data: DividedData, work_of: WorkOf) -> Report | None:
        """Evaluate a flow or a student, with other processes perhaps.

        Raises:
            DataError: The flow was made for other data, the data lacks training or test images,
                or the kept statistics are of other images or features.
        """
        features = self.features_of(flow, data)
        known = self.real_images(features, work_of)
        runs = self._draw(flow, features, work_of)
        if known is None:
            return None
        scores = {name: [known.scores(rows) for rows in runs[name]] for name in runs}
        scores[HELD_OUT] = [known.held_out]
        settings = {**self.settings(flow, data), "unreadable": known.unreadable}
        return report_of(settings, list(features.extractors), self.skipped(data), scores)

    def features_of(self, flow: Model, data: DividedData) -> ImageFeatures:
        """What images are compared by, once the data is known to fit.

        Raises:
            DataError: The flow was made for other data, the data is of latents, or training or
                test images are missing.
        """
        if isinstance(data.codec, Tokenizer):
            raise DataError(
                f"{data.name} holds latents, and samples are compared with images: give the data"
                " set that the latents were made of, as data=... of `tarflow prepare`"
            )
        check_fit(flow, data)
        for part in (data.train, data.test):
            if part is None or not len(part):  # pyright: ignore[reportArgumentType]
                raise DataError(f"{data.name} lacks training or test images to compare with")
        images = check_images(data)
        return ImageFeatures(images, self._available(images)[0], flow.base.anchor.device)

    def real_images(self, features: ImageFeatures, work_of: WorkOf) -> RealImages | None:
        """What samples are compared with; None where another process knows.

        Raises:
            DataError: The kept statistics are of other images or features.
        """
        kept = Path(self.statistics).expanduser() if self.statistics else None
        part = chosen(features.data.train, self.num_reference)
        known = references_of(features, part, kept, work_of)
        part, work = chosen(features.data.test, self.num_reference), work_of("held_out")
        compute = partial(features.of_part, ReadAhead(part, work.num_workers))
        held_out = work.do("held-out images", len(part), 256, compute)
        if known is None or held_out is None:
            return None
        references, lost = known
        rows = of_readable(held_out)
        unreadable = {
            "training": lost,
            "held-out": len(held_out["digest"]) - len(rows["digest"]),
        }
        return RealImages(references, rows, unreadable)

    def settings(self, flow: Model, data: DividedData) -> dict[str, Any]:
        """All that the values depend on, besides the weights."""
        return {
            "data": data.name,
            "num_samples": self.num_samples,
            "seeds": list(self.seeds),
            **self._ways(flow).settings,
            "dtype": str(flow.base.anchor.dtype).removeprefix("torch."),
            "num_reference": self.num_reference,
            "extractors": {k: each.identity for k, each in self._available(data)[0].items()},
            "software": software(),
        }

    def skipped(self, data: DividedData) -> dict[str, str]:
        """Why some of the extractors cannot be used on images of the data."""
        return self._available(data)[1]

    def _available(self, data: DividedData) -> tuple[dict[str, Extractor], dict[str, str]]:
        """The extractors that can be used, and why the others cannot."""
        usable, skipped, shape = {}, {}, check_images(data).image_shape
        for name, extractor in self.extractors.items():
            try:
                extractor.check(shape)
                usable[name] = extractor
            except UnavailableError as error:
                skipped[name] = str(error)
        return usable, skipped

    def _ways(self, flow: Model) -> Ways:
        """The ways in which a model is drawn from."""
        if isinstance(flow, Student):
            return StudentWays(flow.eval(), self.guidance, _read_steps(self.steps))
        return FlowWays(flow.eval(), self.guidance, self.denoiser)

    def _draw(
        self, flow: Model, features: ImageFeatures, work_of: WorkOf
    ) -> dict[str, list[Rows]]:
        """Features of samples for each seed, by what was left out."""
        found: dict[str, list[Rows]] = {}
        ways = self._ways(flow)
        first, *_ = ways.samplers(conditioned=False).values()
        conditioned = bool(SampleJudge(first, features).context(range(1)).parts)
        samplers = ways.samplers(conditioned)
        for seed, (way, sampler) in product(self.seeds, samplers.items()):
            judge = SampleJudge(replace(sampler, seed=seed), features)
            work, title = work_of(f"seed_{seed}_{way.replace(' ', '_')}"), f"seed {seed}, {way}"
            rows = work.do(title, self.num_samples, self.batch_size, judge)
            if rows is not None:
                for name, panel in ways.panels.items():
                    start = f"{panel}/"
                    own = {k.removeprefix(start): rows[k] for k in rows if k.startswith(start)}
                    found.setdefault(f"{way}{name}", []).append(own)
        return found


def _read_steps(steps: Any) -> tuple[int, ...]:
    """Numbers of steps as a caller gives them: one, several, or None for none."""
    listed = steps if isinstance(steps, Sequence) and not isinstance(steps, str) else [steps]
    listed = [] if steps is None else listed
    numbers = tuple(check_integer("one of steps,", each, least=1) for each in listed)
    if len(set(numbers)) < len(numbers):
        raise ConfigurationError(f"steps {shown(steps)} must be all different")
    return numbers
