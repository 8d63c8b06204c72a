"""How long the samples of a study's models take: all of them in turns, and nothing beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch

from tarflow.ablation.samplers.sampler_runs import SamplerRun
from tarflow.ablation.study import StudyRun
from tarflow.evaluation.provenance import software
from tarflow.evaluation.ways import StudentWays
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.guidance import LinearGuidance
from tarflow.flows.pretrained import load
from tarflow.machine.device import medians
from tarflow.sampling.drawing import read_classes
from tarflow.sampling.flow_sampler import FlowSampler
from tarflow.sampling.sample_folder import fingerprints
from tarflow.sampling.sampler import Sampler
from tarflow.students.student import Student

BATCH_SIZES = (1, 64)

Task = tuple[str, str, int]
"""A run's name, a way to draw from its model, and a number of samples at a time."""


@dataclass(frozen=True)
class TimesRun(StudyRun):
    """Times the samples of all models of a data set, by every way to draw them.

    Attributes:
        data: The data set.
        models: The runs that fitted the models, which are done.
        repetitions: Number of times that each is timed; medians count.
        threads: Number of threads that compute.
    """

    data: str
    models: tuple[SamplerRun, ...]
    repetitions: int
    threads: int

    @property
    def settings(self) -> dict[str, Any]:
        weights = {run.name: fingerprints(run.pretrained)[WEIGHTS] for run in self.models}
        own = {"data": self.data, "variant": "times", "seed": None, "models": weights}
        return {**own, "repetitions": self.repetitions, "threads": self.threads}

    @property
    def name(self) -> str:
        return f"{self.data}-times"

    def do(self) -> dict[str, Any]:
        """Time them, in this process alone."""
        torch.set_num_threads(self.threads)
        tasks: dict[Task, Callable[[], Any]] = {}
        for run in self.models:
            for (way, sampler), size in product(ways_of(run).items(), BATCH_SIZES):
                indices = range(size)
                tasks[run.name, way, size] = partial(
                    sampler.draw, indices, sampler.context(indices)
                )
        for warm_up in tasks.values():
            warm_up()
        found = medians(tasks, "cpu", self.repetitions)
        times: dict[str, Any] = {}
        for (name, way, size), seconds in found.items():
            ways = times.setdefault(name, {}).setdefault(way, {})
            ways[f"batch_{size}"] = 1000 * seconds / size
        return {"settings": self.settings, "software": software(), "milliseconds": times}


def ways_of(run: SamplerRun) -> Mapping[str, Sampler]:
    """What draws from a run's model, in every way that is judged, by its name."""
    model, rule = load(run.pretrained), LinearGuidance(run.weight)
    if isinstance(model, Student):
        return StudentWays(model, rule, run.steps or ()).samplers(conditioned=True)
    classes, found = read_classes("all", model.num_classes), {}
    for words, guidance in {f"guidance {rule.weight:g}": rule, "no guidance": None}.items():
        for panel, denoise in {"denoised": True, "not denoised": False}.items():
            told = {"denoise": denoise, "options": DecodeOptions(guidance).prepared()}
            found[f"{words}, {panel}"] = FlowSampler(model, classes=classes, **told)
    return found
