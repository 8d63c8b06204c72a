"""How long samples of models take: all of them in turns, and nothing beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch

from tarflow.ablation.claims import Results
from tarflow.ablation.sampled_run import DrawnRun
from tarflow.ablation.study import StudyRun
from tarflow.evaluation.provenance import software
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.codec import Stored
from tarflow.machine.device import medians
from tarflow.sampling.sample_folder import fingerprints
from tarflow.sampling.sampler import Sampler

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
    models: tuple[DrawnRun, ...]
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
            for (way, sampler), size in product(run.samplers().items(), BATCH_SIZES):
                tasks[run.name, way, size] = partial(_pictures, sampler, size)
        for warm_up in tasks.values():
            warm_up()
        found = medians(tasks, "cpu", self.repetitions)
        times: dict[str, Any] = {}
        for (name, way, size), seconds in found.items():
            ways = times.setdefault(name, {}).setdefault(way, {})
            ways[f"batch_{size}"] = 1000 * seconds / size
        return {"settings": self.settings, "software": software(), "milliseconds": times}


def with_times(results: Results, times: Results) -> list[dict[str, Any]]:
    """What runs that fit have left, each with the times of its samples, as far as they are known.

    Samples `per_second` are those of the larger batches.

    Args:
        results: Of the runs that fit.
        times: Of the runs that time.
    """
    known: dict[str, Any] = {}
    for each in times:
        known |= each["milliseconds"]
    found = []
    for each in results:
        ways = known.get(_name(each["settings"]), {})
        rates = {way: 1000 / took[f"batch_{BATCH_SIZES[-1]}"] for way, took in ways.items()}
        found.append({**each, "milliseconds": ways, "per_second": rates})
    return found


def _name(settings: dict[str, Any]) -> str:
    """The name of the run of some settings."""
    return f"{settings['data']}-{settings['variant']}-{settings['seed']}"


def _pictures(sampler: Sampler, count: int) -> Stored:
    """Samples as they are stored."""
    indices = range(count)
    panels, _ = sampler.draw(indices, sampler.context(indices))
    return sampler.codec.decode(panels[sampler.panels[-1]])
