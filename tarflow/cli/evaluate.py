"""`tarflow evaluate`: measures a flow on data."""

from pathlib import Path

from omegaconf import DictConfig

from tarflow.cli.choices import device_of, find_pretrained
from tarflow.cli.command import instantiate
from tarflow.tar_flow import TarFlow


def evaluate(config: DictConfig) -> None:
    """Evaluate a pretrained flow and leave a report."""
    directory = find_pretrained(config.checkpoint)
    flow = TarFlow.from_pretrained(directory).to(device_of(config.device))
    data = instantiate(config.data.data)
    report = instantiate(config.metrics)(flow, data)
    report.print()
    output = config.output or directory.parent / "evaluation" / report.name
    print(report.write(Path(output), directory))
