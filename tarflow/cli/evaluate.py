"""`tarflow evaluate`: measures a flow on data."""

from pathlib import Path

from omegaconf import DictConfig

from tarflow.checkpoint import WEIGHTS
from tarflow.cli.choices import device_of, find_pretrained
from tarflow.cli.command import instantiate
from tarflow.data import ImageData
from tarflow.errors import ConfigurationError
from tarflow.evaluation import Kept, LikelihoodMetrics, Report, compare_likelihoods
from tarflow.evaluation.provenance import sha256_of
from tarflow.processes import Process
from tarflow.tar_flow import TarFlow


def evaluate(config: DictConfig) -> None:
    """Evaluate a pretrained flow and leave a report; compare it with another if there is one."""
    directory = find_pretrained(config.checkpoint)
    metrics, data = instantiate(config.metrics), instantiate(config.data.data)
    if isinstance(metrics, LikelihoodMetrics):
        return _evaluate_likelihood(config, metrics, data, directory)
    if config.baseline is not None:
        raise ConfigurationError("baseline= compares likelihoods: give metrics=likelihood")
    flow = TarFlow.from_pretrained(directory).to(device_of(config.device))
    report = metrics(flow, data)
    _leave(report, _output(config, directory, report.name), directory)
    return None


def _evaluate_likelihood(
    config: DictConfig, metrics: LikelihoodMetrics, data: ImageData, directory: Path
) -> None:
    """Share the work with other processes, and go on with what a killed one has left."""
    process = Process.find(config.rank, config.world_size)
    output = _output(config, directory, "likelihood")

    works: list[Kept] = []

    def measure(pretrained: Path, name: str) -> Report | None:
        flow = TarFlow.from_pretrained(pretrained).to(device_of(config.device, process.local_rank))
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


def _output(config: DictConfig, directory: Path, name: str) -> Path:
    """Where a report goes."""
    return Path(config.output or directory.parent / "evaluation" / name)


def _leave(report: Report, output: Path, directory: Path, baseline: Path | None = None) -> None:
    """Show and write a report."""
    report.print()
    print(report.write(output, directory, baseline))
