"""`tarflow evaluate`: measures a flow, or a student, on data."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tarflow.cli.choices import beside, device_of, find_pretrained, load_model, put_tokenizer
from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section, Settings
from tarflow.errors import ConfigurationError
from tarflow.evaluation import Kept, Metrics, Report
from tarflow.evaluation.provenance import sha256_of
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.machine.processes import Process

OF_STUDENTS = ("steps",)
OF_FLOWS = ("baseline", "guidance_rule", "temperature", "denoiser", "denoising_steps")
"""Keys that mean nothing for the other kind of model."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """The settings of `tarflow evaluate`."""

    checkpoint: str = "???"  # a run folder or a pretrained folder
    tokenizer: str | None = None  # one with another decoder, for samples of a flow of latents
    data: Section
    metrics: Section
    baseline: str | None = None  # another one: likelihoods are compared image by image
    output: str | None = None  # the report's; by default evaluation/ beside `pretrained`
    guidance: float = 1.0  # weight, for metrics of samples
    guidance_rule: Section
    temperature: float = 1.0  # attention temperature of the null prediction
    denoiser: Section
    denoising_steps: int = 30  # levels that denoisers of many noise levels go through
    steps: int | list[int] | None = None  # passes of a student, for metrics of samples; [1,2,4]
    device: str = "auto"  # or cpu, cuda, cuda:1, mps
    rank: int | None = None  # which of several processes that share the work; torchrun, srun tell
    world_size: int | None = None  # the number of these processes


def evaluate(config: EvaluateSettings) -> None:
    """Evaluate a pretrained model and leave a report; compare it with another if there is one.

    The work is shared with other processes, and goes on with what a killed one has left.
    """
    directory = find_pretrained(config.checkpoint)
    metrics: Metrics = instantiate(config.metrics)
    data, num_workers = instantiate(config.data.data), config.data.get("num_workers", 0)
    if config.baseline is not None and not metrics.compares:
        raise ConfigurationError(
            f"baseline= compares likelihoods, and {metrics.name} cannot be compared: give"
            " metrics=likelihood"
        )
    baseline = None if config.baseline is None else find_pretrained(config.baseline)
    process = Process.find(config.rank, config.world_size)
    output = Path(config.output or beside(directory, "evaluation") / metrics.name)

    def measure(pretrained: Path, values: Path) -> Report | None:
        device = device_of(config.device, process.local_rank)
        model = load_model(pretrained, device, OF_FLOWS, OF_STUDENTS)
        metrics.check(model)
        origin = {"weights": sha256_of(pretrained / WEIGHTS)}
        origin |= put_tokenizer(model, config.tokenizer)
        settings = {**origin, **metrics.settings(model, data)}

        def work_of(part: str) -> Kept:
            return Kept(values / part, {"part": part, **settings}, process, num_workers)

        return metrics.evaluate(model, data, work_of)

    values = {"values": directory, "values_of_baseline": baseline}
    reports = [measure(p, output / name) for name, p in values.items() if p is not None]
    if reports[0] is None or not process.leads:
        print(f"process {process.rank} has done its share: process 0 writes the report")
        return
    _leave(reports[0], output, directory)
    if baseline is not None and reports[1] is not None:
        comparison = metrics.compare(reports[0], reports[1])
        _leave(comparison, output / comparison.name, directory, baseline)
    for name in values:  # another process may be about to leave: what cannot be removed stays
        shutil.rmtree(output / name, ignore_errors=True)


def _leave(report: Report, output: Path, directory: Path, baseline: Path | None = None) -> None:
    """Write a report, then show it."""
    path = report.write(output, directory, baseline)
    report.print()
    print(path)
