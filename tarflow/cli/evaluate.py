"""`tarflow evaluate`: measures a flow on data."""

from dataclasses import dataclass
from pathlib import Path

from tarflow.cli.choices import device_of, find_pretrained
from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section, Settings
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.evaluation import (
    Kept,
    LikelihoodMetrics,
    Report,
    SampleMetrics,
    compare_likelihoods,
)
from tarflow.evaluation.provenance import sha256_of
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.tar_flow import TarFlow
from tarflow.machine.processes import Process


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """The settings of `tarflow evaluate`."""

    checkpoint: str = "???"  # a run folder or a pretrained folder
    data: Section
    metrics: Section
    baseline: str | None = None  # another one: likelihoods are compared image by image
    output: str | None = None  # the report's; by default evaluation/ beside the pretrained folder
    guidance: float = 1.0  # weight, for metrics of samples
    guidance_rule: Section
    temperature: float = 1.0  # attention temperature of the null prediction
    device: str = "auto"  # or cpu, cuda, cuda:1, mps
    rank: int | None = None  # which of several processes that share the work; torchrun, srun tell
    world_size: int | None = None  # the number of these processes


def evaluate(config: EvaluateSettings) -> None:
    """Evaluate a pretrained flow and leave a report; compare it with another if there is one.

    The work is shared with other processes, and goes on with what a killed one has left.
    """
    directory = find_pretrained(config.checkpoint)
    metrics, data = instantiate(config.metrics), instantiate(config.data.data)
    process = Process.find(config.rank, config.world_size)
    if isinstance(metrics, LikelihoodMetrics):
        _evaluate_likelihood(config, metrics, data, directory, process)
    elif config.baseline is not None:
        raise ConfigurationError("baseline= compares likelihoods: give metrics=likelihood")
    else:
        _evaluate_samples(config, metrics, data, directory, process)
    if not process.leads:
        print(f"process {process.rank} has done its share: process 0 writes the report")


def _evaluate_likelihood(
    config: EvaluateSettings,
    metrics: LikelihoodMetrics,
    data: ImageData,
    directory: Path,
    process: Process,
) -> None:
    """Evaluate one flow or two."""
    output = _output(config, directory, "likelihood")
    works: list[Kept] = []

    def measure(pretrained: Path, name: str) -> Report | None:
        flow = _load(config, pretrained, process)
        settings = {"weights": sha256_of(pretrained / WEIGHTS), **metrics.settings(flow, data)}
        works.append(Kept(output / name, settings, process))
        rows = metrics.measure(flow, data, works[-1])
        return None if rows is None else metrics.report(flow, data, rows)

    baseline = None if config.baseline is None else find_pretrained(config.baseline)
    report = measure(directory, "values")
    other = None if baseline is None else measure(baseline, "values_of_baseline")
    if report is None:
        return
    _leave(report, output, directory)
    if other is not None:
        comparison = compare_likelihoods(report, other)
        _leave(comparison, output / comparison.name, directory, baseline)
    for work in works:
        work.forget()


def _evaluate_samples(
    config: EvaluateSettings,
    metrics: SampleMetrics,
    data: ImageData,
    directory: Path,
    process: Process,
) -> None:
    """Judge the samples of a flow."""
    output = _output(config, directory, "samples")
    flow = _load(config, directory, process)
    usable, _ = metrics.available(data)
    settings = {
        "weights": sha256_of(directory / WEIGHTS),
        "extractors": {name: extractor.identity for name, extractor in usable.items()},
        **metrics.settings(flow, data),
    }
    values = output / "values"
    report = metrics.evaluate(
        flow, data, lambda name: Kept(values / name, {"part": name, **settings}, process)
    )
    if report is not None:
        _leave(report, output, directory)
        Kept(values, settings).forget()


def _load(config: EvaluateSettings, pretrained: Path, process: Process) -> TarFlow:
    """Read a flow to this process's device."""
    flow = TarFlow.from_pretrained(pretrained)
    return flow.to(device_of(config.device, process.local_rank))


def _output(config: EvaluateSettings, directory: Path, name: str) -> Path:
    """Where a report goes."""
    return Path(config.output or directory.parent / "evaluation" / name)


def _leave(report: Report, output: Path, directory: Path, baseline: Path | None = None) -> None:
    """Show and write a report."""
    report.print()
    print(report.write(output, directory, baseline))
