"""Guidance tried at several weights: the same noise, drawn and judged at each of them."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL.Image import Image

from tarflow.arguments import check_integer, flattened, shown
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.evaluation.image_features import ImageFeatures
from tarflow.evaluation.metrics import WorkOf
from tarflow.evaluation.reporting import Report
from tarflow.evaluation.sample_table import report_of
from tarflow.evaluation.samples import HELD_OUT, RealImages, SampleMetrics
from tarflow.evaluation.work import InMemory, Rows
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.guidance import Guidance
from tarflow.machine.files import json_text, write_atomically
from tarflow.machine.processes import Process
from tarflow.nn.networks import Networks
from tarflow.sampling.certificates import Certificates
from tarflow.sampling.flow_sampler import FlowSampler
from tarflow.sampling.gallery import Gallery
from tarflow.sampling.pictures import below, grid
from tarflow.sampling.sample_folder import SampleFolder
from tarflow.sampling.sample_run import SampleRun

SCORES = "scores.json"


@dataclass(frozen=True)
class Turn:
    """A rule at one weight, or no guidance.

    Attributes:
        rule: The name of the rule; empty where there is no guidance.
        guidance: The rule.
    """

    rule: str = ""
    guidance: Guidance | None = None

    @property
    def weight(self) -> float:
        """The weight of the rule."""
        return self.guidance.weight if self.guidance else 0.0

    @property
    def title(self) -> str:
        """What it is called in tables and pictures."""
        weight = str(self.weight).removesuffix(".0")
        return f"{self.rule} {weight}" if self.rule else "no guidance"


def turns_of(rules: Mapping[str, Guidance], weights: Sequence[float]) -> list[Turn]:
    """No guidance, if 0 is among the weights; then every rule at every other, rising weight.

    Raises:
        ConfigurationError: There is no weight or rule, or a weight is out of range.
    """
    if not weights or not rules:
        raise ConfigurationError(
            f"weights {shown(list(weights))} of rules {shown(list(rules))}: give one or more"
        )
    turns = [
        Turn(name, replace(rule, weight=weight))  # which checks it
        for (name, rule), weight in product(rules.items(), sorted(set(weights)))
    ]
    guided = [turn for turn in turns if turn.weight]
    return [Turn()] * (len(guided) < len(turns)) + guided


@dataclass(frozen=True)
class GuidanceSweep:
    """Draws the same noise at several weights, of one rule or several, and judges the samples.

    Those of a turn and a seed are a folder such as `tarflow sample` leaves, with their scores. So
    nothing is drawn twice: not after a kill, nor where a weight, a rule or a seed is added.

    Attributes:
        directory: Where all is kept.
        turns: What is compared.
        sampler: What samples are drawn by, but for seed and guidance.
        options_of: How to decode under a guidance.
        metrics: How samples are judged, and how many of which seeds are drawn.
        data: What they are compared with.
        origin: What tells the flow.
        grid_samples: Number of samples in the grid of a turn, the first ones of the first seed.
        columns: Images in a row of that; None for a square.
        process: Which of the processes that share the drawing this is.
    """

    directory: Path
    turns: Sequence[Turn]
    sampler: FlowSampler
    options_of: Callable[[Guidance | None], DecodeOptions]
    metrics: SampleMetrics
    data: ImageData
    origin: Mapping[str, Any]
    grid_samples: int = 100
    columns: int | None = None
    process: Process = Process()

    def __post_init__(self):
        check_integer("grid_samples", self.grid_samples, least=1)
        if self.columns is not None:
            check_integer("columns", self.columns, least=1)
        context = self.sampler.context(range(1))
        for turn in self.turns:
            if turn.guidance is not None:
                self.sampler.model.check_guidance(turn.guidance, context)

    @cached_property
    def runs(self) -> dict[Turn, list[SampleRun]]:
        """For every turn, the samples of each seed."""
        runs, prepared = {}, {}
        for turn in self.turns:
            options = self.options_of(turn.guidance).prepared()
            networks = cast(Networks, options.networks)
            # Once for all turns of a precision.
            networks = prepared.setdefault(networks.precision, networks)
            options = replace(options, networks=networks)
            samplers = (replace(self.sampler, seed=s, options=options) for s in self.metrics.seeds)
            runs[turn] = [self._run(turn, sampler) for sampler in samplers]
        return runs

    def _run(self, turn: Turn, sampler: FlowSampler) -> SampleRun:
        """The samples of a turn and a seed."""
        name = f"{turn.title.replace(' ', '_')}_seed_{sampler.seed}"
        folder = SampleFolder(self.directory / "samples" / name)
        settings = {**self.origin, **sampler.settings}
        sizes = (self.metrics.num_samples, self.metrics.batch_size)
        return SampleRun(folder, settings, *sizes, self.process, sampler=sampler)

    def draw(self, overwrite: bool = False) -> None:
        """Draw what is missing of this process's share; the leading one waits for the others.

        Raises:
            ConfigurationError: A folder holds samples of other settings, and is not to be
                overwritten.
            DataError: A folder cannot be written.
        """
        runs = [(turn, run) for turn, listed in self.runs.items() for run in listed]
        for _, run in runs:  # all of them before the first is drawn
            if not overwrite:
                run.folder.check_same(run.settings)
        for turn, run in runs:
            with run.opened(overwrite, run.sampler.bytes_per_sample):
                run.fill(f"{turn.title}, seed {run.sampler.seed}", run.sampler)

    def judge(self, features: ImageFeatures, work_of: WorkOf) -> Report:
        """Judge the samples, once all are drawn, and leave the grid of every turn.

        Args:
            features: What images are compared by.
            work_of: Where features of real images are computed.

        Raises:
            DataError: Samples or kept statistics are damaged, or of something else.
        """
        judge = SweepJudge(features, partial(self.metrics.real_images, features, work_of))
        settings = self.metrics.settings(self.sampler.model, self.data)
        del settings["guidance"]
        request = {**settings, "grid_samples": self.grid_samples, "columns": self.columns}
        del request["seeds"]
        found = {
            turn.title: [self._finished(turn, run, request, judge) for run in runs]
            for turn, runs in self.runs.items()
        }
        last = next(iter(found.values()))[-1]
        scores = {name: [each["scores"] for each in listed] for name, listed in found.items()}
        scores[HELD_OUT] = [last["held_out"]]
        rules = {turn.title: repr(turn.guidance) for turn in self.turns}
        values = {**settings, "guidance": rules, "unreadable": last["unreadable"]}
        skipped = self.metrics.skipped(self.data)
        report = report_of(values, list(features.extractors), skipped, scores)
        return replace(report, name="guidance")

    def _finished(self, turn: Turn, run: SampleRun, request: Any, judge: "SweepJudge") -> Any:
        """The scores of a run, which are computed, and its grid drawn, unless they are there."""
        path = run.folder.directory / SCORES
        if not run.files(request):
            found = judge(f"judging {turn.title}, seed {run.sampler.seed}", run)
            gallery = Gallery(run.folder.directory, run.sampler.codec, self.columns)
            with run.folder.saving():
                write_atomically(path, json_text(found))
                files = [path, gallery.write_certificates(run.certificates)]
                if run.sampler.seed == self.metrics.seeds[0]:
                    files.append(gallery.write_grid(run.panels(self.grid_samples)))
                run.folder.finish(request, files)
        return _with_nan(json.loads(path.read_text()))

    def picture(self, num_samples: int) -> Image:
        """The first samples of the first seed: a row for each turn."""
        rows = {}
        for turn, (run, *_) in self.runs.items():
            pixels = run.panels(num_samples)[run.sampler.panels[-1]]
            images = run.sampler.codec.to_bytes(pixels)
            rows[turn.title] = grid(images, len(images), min_side=40 * len(images))
        return below(rows)

    def table(self, report: Report) -> str:
        """The scores as a table for programs: a row for each turn, then the held-out images."""
        text = io.StringIO()
        writer, header = csv.writer(text, lineterminator="\n"), None
        lines = [(turn.rule, turn.weight, turn.title) for turn in self.turns]
        for rule, weight, title in [*lines, (HELD_OUT, "", HELD_OUT)]:
            columns = flattened(report.values["samples"][title], " ")
            if header is None:
                header = list(columns)
                writer.writerow(["rule", "weight", *header])
            writer.writerow([rule, weight, *(columns.get(name, "") for name in header)])
        return text.getvalue()


@dataclass(frozen=True)
class SweepJudge:
    """Scores samples that are drawn.

    Attributes:
        features: What images are compared by.
        find: Finds what they are compared with, where that is needed.
    """

    features: ImageFeatures
    find: Callable[[], RealImages | None]

    @cached_property
    def real(self) -> RealImages:
        """What samples are compared with."""
        found = self.find()
        assert found is not None
        return found

    def __call__(self, title: str, run: SampleRun) -> dict[str, Any]:
        """The scores of a run, and of held-out images."""
        held_out, unreadable = self.real.held_out, dict(self.real.unreadable)
        rows = InMemory().do(title, run.count, run.batch_size, partial(self._features, run))
        assert rows is not None
        scores = self.real.scores(rows)
        return {"scores": scores, "held_out": held_out, "unreadable": unreadable}

    @torch.no_grad()
    def _features(self, run: SampleRun, indices: range) -> Rows:
        """Features of some samples."""
        batches = list(run.folder.shards.read(indices))
        panel = run.sampler.panels[-1]
        pixels = torch.from_numpy(np.concatenate([batch[panel] for batch in batches]))
        columns = self.features(pixels, run.sampler.context(indices).label)
        return {**columns, "finite": Certificates.join(batches).finite}


def _with_nan(content: Any) -> Any:
    """What a file keeps of scores, with NaN for its null."""
    if isinstance(content, dict):
        return {name: _with_nan(value) for name, value in content.items()}
    return math.nan if content is None else content
