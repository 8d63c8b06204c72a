"""The study of tokenizers: these first, then flows of their latents, then times."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tarflow.ablation.data_sets import LARGE
from tarflow.ablation.sampled_run import SampledRun
from tarflow.ablation.study import Study, check_known, write_results
from tarflow.ablation.times_run import TimesRun, with_times
from tarflow.ablation.tokenizers.preparation_run import PreparationRun
from tarflow.ablation.tokenizers.recipes import RECIPES
from tarflow.ablation.tokenizers.tokenizer_runs import LatentRun, PixelRun, TokenizerRun, TunedRun
from tarflow.arguments import check_integer
from tarflow.errors import ConfigurationError

TUNING = 0.5
"""Share of a tokenizer's time in which a decoder is tuned."""
WAYS_OF = "kl"
"""The tokenizer whose latents' noise is removed in every way."""


@dataclass(frozen=True)
class TokenizerStudy:
    """All runs, each of which leaves a file when it ends; only those without one are to be done.

    Attributes:
        directory: Where they and the models are kept.
        data: The data set.
        tokenizers: Names of the tokenizers.
        seeds: Each of them, and each flow, is fitted with every seed.
        tokenizer_seconds: Processor time of training of each tokenizer.
        flow_seconds: Processor time of training of each flow.
        num_samples: Number of samples for each distance.
        repetitions: Number of times that samples, and preparation, are timed.
        threads: Number of threads for that.

    Raises:
        ConfigurationError: The data or a tokenizer is unknown, or a number is not positive.
    """

    directory: Path
    data: str
    tokenizers: Sequence[str]
    seeds: Sequence[int]
    tokenizer_seconds: float
    flow_seconds: float
    num_samples: int
    repetitions: int
    threads: int

    def __post_init__(self):
        check_known("dataset", [self.data], LARGE)
        check_known("tokenizers", self.tokenizers, RECIPES)
        if not (self.tokenizer_seconds > 0 and self.flow_seconds > 0) or not self.seeds:
            raise ConfigurationError(
                f"tokenizer_seconds={self.tokenizer_seconds} and flow_seconds={self.flow_seconds}"
                f" must be positive, and seeds={list(self.seeds)} must name one"
            )
        check_integer("num_samples", self.num_samples, least=4)
        check_integer("repetitions", self.repetitions, least=1)
        check_integer("threads", self.threads, least=1)

    @cached_property
    def fitted(self) -> list[TokenizerRun]:
        """Those that fit tokenizers: all of a seed first, for a study that is cut short."""
        return [
            TokenizerRun(self.directory, self.data, seed, self.tokenizer_seconds, name)
            for seed in self.seeds
            for name in self.tokenizers
        ]

    @cached_property
    def flows(self) -> list[PixelRun | LatentRun]:
        """Those that fit flows: of pixels, with the time of a tokenizer besides, of latents."""
        found: list[PixelRun | LatentRun] = []
        for seed in self.seeds:
            told = (self.directory, self.data, seed, self.flow_seconds, self.num_samples)
            found += [PixelRun(*told), PixelRun(*told, self.tokenizer_seconds)]
            for run in self.fitted:
                if run.seed == seed:
                    levels = (False, True) if run.tokenizer == WAYS_OF else (False,)
                    found += [LatentRun(*told, run, each) for each in levels]
        return found

    @cached_property
    def tuned(self) -> list[TunedRun]:
        """Those that tune decoders."""
        seconds = TUNING * self.tokenizer_seconds
        return [
            TunedRun(self.directory, self.data, run.seed, seconds, self.num_samples, run)
            for run in self.flows
            if run.variant == f"latents_{WAYS_OF}" and isinstance(run, LatentRun)
        ]

    @property
    def sampled(self) -> list[SampledRun]:
        """Everything that is drawn from."""
        return [*self.flows, *self.tuned]

    @property
    def times(self) -> TimesRun:
        """The run that times samples, of models that are there."""
        return TimesRun(self.data, tuple(self.sampled), self.repetitions, self.threads)

    @property
    def preparation(self) -> PreparationRun:
        """The run that times preparation, with the first tokenizer, which is there."""
        return PreparationRun(self.fitted[0], self.repetitions, self.threads)

    def do(self, workers: int) -> None:
        """Do what is left; what fits, in processes of one thread each, what is timed, alone.

        Raises:
            ConfigurationError: A file is of other settings, or there are no workers.
            TarflowError: Runs failed; the others of their kind are done.
        """
        for runs in (self.fitted, self.flows, self.tuned):
            Study(self.directory, runs).do(workers)
        Study(self.directory, [self.times, self.preparation]).do(1)

    def results(self) -> list[dict[str, Any]]:
        """What the runs have left, with the times of samples at those that are drawn from."""
        times = Study(self.directory, [self.times]).results()
        sampled = with_times(Study(self.directory, self.sampled).results(), times)
        others = Study(self.directory, [*self.fitted, self.preparation]).results()
        return [*others, *sampled]

    def write(self) -> Path:
        """Put all results into one file, a line for each run."""
        return write_results(self.directory / "results.json", self.results())
