"""`tarflow evaluate`: measures a flow on data."""

from pathlib import Path

from omegaconf import DictConfig

from tarflow.cli.choices import device_of, find_pretrained
from tarflow.cli.command import instantiate
from tarflow.errors import ConfigurationError
from tarflow.evaluation import LikelihoodMetrics, Report, compare_likelihoods
from tarflow.tar_flow import TarFlow


def evaluate(config: DictConfig) -> None:
    """Evaluate a pretrained flow and leave a report; compare it with another if there is one."""
    directory = find_pretrained(config.checkpoint)
    baseline = None if config.baseline is None else find_pretrained(config.baseline)
    metrics, data = instantiate(config.metrics), instantiate(config.data.data)
    if baseline is not None and not isinstance(metrics, LikelihoodMetrics):
        raise ConfigurationError("baseline= compares likelihoods: give metrics=likelihood")

    def measure(pretrained: Path) -> Report:
        return metrics(TarFlow.from_pretrained(pretrained).to(device_of(config.device)), data)

    report = measure(directory)
    folder = Path(config.output or directory.parent / "evaluation" / report.name)
    report.print()
    print(report.write(folder, directory))
    if baseline is not None:
        comparison = compare_likelihoods(report, measure(baseline))
        comparison.print()
        print(comparison.write(folder / comparison.name, directory, baseline))
