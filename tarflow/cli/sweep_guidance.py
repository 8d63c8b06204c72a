"""`tarflow sweep-guidance`: samples and their quality at several weights of guidance."""

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tarflow.arguments import check_instance, check_integer, shown
from tarflow.cli.choices import beside, decode_options, device_of, find_pretrained
from tarflow.cli.command import instantiate
from tarflow.cli.settings import CONF, Section, Settings, check
from tarflow.errors import ConfigurationError
from tarflow.evaluation import Kept, SampleMetrics
from tarflow.evaluation.guidance_sweep import GuidanceSweep, turns_of
from tarflow.evaluation.image_features import ImageFeatures
from tarflow.evaluation.sample_judge import SampleJudge
from tarflow.evaluation.sweep_plot import draw
from tarflow.flows.flow import Flow
from tarflow.flows.guidance import Guidance
from tarflow.machine.files import replacing, write_atomically
from tarflow.machine.processes import Process
from tarflow.sampling.drawing import read_classes
from tarflow.sampling.flow_sampler import FlowSampler
from tarflow.sampling.sample_folder import fingerprints

RULES = CONF / "guidance_rule"


@dataclass(frozen=True, kw_only=True)
class SweepGuidanceSettings(Settings):
    """The settings of `tarflow sweep-guidance`."""

    checkpoint: str = "???"  # a run folder or a pretrained folder
    weights: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.0, 2.0])  # 0: no guidance
    guidance_rule: Section
    rules: list[str] | None = None  # several to compare, by name, such as [linear,linear_ramp]
    temperature: float = 1.0  # attention temperature of the null; guides flows without classes
    data: Section  # what samples are compared with: its training images
    metrics: Section  # how many samples of which seeds, and how they are judged
    denoiser: Section
    denoising_steps: int = 30  # levels that denoisers of many noise levels go through
    dtype: str | None = None  # precision of the transformers: as for sampling
    compile: bool = False  # run single steps compiled: pays after many samples, if at all
    decoder: Section
    tolerance: float = 1e-3  # largest residual of a certified sample
    window: int = 64  # of decoder=jacobi
    grid_samples: int = 100  # the first samples, those that the grid of a weight shows
    columns: int | None = None  # images in a row of that grid
    row_samples: int = 10  # samples of each weight in guidance.png
    output: str | None = None  # by default guidance/ beside `pretrained`
    overwrite: bool = False  # true: replace what other settings left in the output folder
    device: str = "auto"  # or cpu, cuda, cuda:1, mps; several processes take a GPU each
    rank: int | None = None  # which of several processes this is, from 0; torchrun and srun tell
    world_size: int | None = None  # the number of these processes


def sweep_guidance(config: SweepGuidanceSettings) -> None:
    """Draw and judge samples at every weight; leave pictures, a table and a plot."""
    check_integer("row_samples", config.row_samples, least=1)
    turns = turns_of(_rules(config), config.weights)
    metrics = instantiate(config.metrics)
    check_instance("metrics", metrics, SampleMetrics, "give metrics=samples")
    directory = find_pretrained(config.checkpoint)
    process = Process.find(config.rank, config.world_size)
    flow = Flow.from_pretrained(directory).to(device_of(config.device, process.local_rank))
    data = instantiate(config.data.data)
    features = metrics.features_of(flow, data)
    sweep = GuidanceSweep(
        directory=Path(config.output or beside(directory, "guidance")),
        turns=turns,
        sampler=_sampler(flow, features, metrics),
        options_of=partial(decode_options, config, flow, directory, metrics.batch_size),
        metrics=metrics,
        data=data,
        origin=fingerprints(directory),
        grid_samples=config.grid_samples,
        columns=config.columns,
        process=process,
    )
    sweep.draw(config.overwrite)
    if not process.leads:
        print(f"process {process.rank} has drawn its share: process 0 judges the samples")
        return
    _leave(config, sweep, features, directory)


def _rules(config: SweepGuidanceSettings) -> dict[str, Guidance]:
    """The rules to compare, by name, at any weight."""
    if config.composed["guidance"] != 1:
        raise ConfigurationError(
            f"guidance={config.composed['guidance']} is one weight: give several, weights=[0,1,2]"
        )
    if config.rules is None:
        name = HydraConfig.get().runtime.choices["guidance_rule"]
        return {_words(name): instantiate(config.guidance_rule)}
    known = sorted(path.stem for path in RULES.glob("*.yaml"))
    if unknown := [name for name in config.rules if name not in known]:
        raise ConfigurationError(
            f"rules={shown(config.rules)}: {unknown[0]} is not one of {', '.join(known)}"
        )
    told = {"guidance": 1.0, "temperature": config.temperature}
    rules = {}
    for name in config.rules:
        section: Any = OmegaConf.create({**told, "rule": OmegaConf.load(RULES / f"{name}.yaml")})
        OmegaConf.resolve(section)
        check(OmegaConf.to_container(section))
        rules[_words(name)] = instantiate(section.rule)
    return rules


def _words(name: str) -> str:
    """What a rule of a file is called: `linear ramp`."""
    return str(name).replace("_", " ")


def _sampler(flow: Flow, features: ImageFeatures, metrics: SampleMetrics) -> FlowSampler:
    """What draws samples of all classes, and of the other conditions of training images."""
    classes = read_classes("all", flow.num_classes)
    sampler = FlowSampler(flow.eval(), classes=classes, denoiser=metrics.denoiser)
    others = SampleJudge(sampler, features).context(range(metrics.num_samples))
    return replace(sampler, others=others.updated(label=None))


def _leave(
    config: SweepGuidanceSettings, sweep: GuidanceSweep, features: ImageFeatures, directory: Path
) -> None:
    """Judge the samples, write all files and tell of them."""
    values, workers = sweep.directory / "values", config.data.get("num_workers", 0)
    settings = {**sweep.origin, **sweep.metrics.settings(sweep.sampler.model, sweep.data)}
    report = sweep.judge(
        features,
        lambda part: Kept(values / part, {"part": part, **settings}, num_workers=workers),
    )
    files = [report.write(sweep.directory, directory), sweep.directory / "weights.csv"]
    write_atomically(files[-1], sweep.table(report))
    files.append(sweep.directory / "guidance.png")
    with replacing(files[-1]) as new:
        sweep.picture(config.row_samples).save(new, format="PNG")
    report.print()
    try:
        files.append(draw(sweep.directory / "weights.png", sweep.turns, report))
    except ConfigurationError as error:  # all else is there without matplotlib
        print(error)
    print(*files, sep="\n")
    shutil.rmtree(values, ignore_errors=True)
