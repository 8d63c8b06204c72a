"""`tarflow compress`: makes a flow smaller, within a tolerance of its likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tarflow.arguments import check_integer, shown
from tarflow.cli.choices import beside, device_of, find_pretrained
from tarflow.cli.command import instantiate
from tarflow.cli.settings import Section, Settings
from tarflow.compression import Activations, Cost, Heads, Neurons, Skeletons, Units, measure
from tarflow.compression.before_and_after import report_on
from tarflow.compression.search import Bisection, SomeImages, Tried
from tarflow.data import ImageData
from tarflow.errors import CheckpointError, ConfigurationError
from tarflow.evaluation.likelihood import LikelihoodMetrics
from tarflow.evaluation.metrics import check_fit, part_of
from tarflow.flows.pretrained import load
from tarflow.flows.tar_flow import TarFlow
from tarflow.flows.unit import Unit
from tarflow.machine.files import check_writable, writing
from tarflow.sampling.shared_run import progress

PARTS: dict[str, Units] = {each.name: each for each in (Neurons(), Heads())}


@dataclass(frozen=True, kw_only=True)
class CompressSettings(Settings):
    """The settings of `tarflow compress`."""

    checkpoint: str = "???"  # a run folder or a pretrained folder
    data: Section  # calibrates on the training part, chooses by validation, reports on test
    tolerance: float = 0.01  # rise of the mean negative log-likelihood, in the flow's unit per dim
    parts: list[str] = field(default_factory=lambda: [*PARTS])  # what layers may have fewer of
    multiple: int = 8  # numbers of neurons are multiples of it, in which products are fast
    num_images: int = 2000  # at most so many calibrate, and as many of the validation part decide
    batch_size: int = 128  # images computed at a time
    seed: int = 0  # of the choice of images, and of their noise
    num_samples: int = 64  # drawn at a time, to see how fast that is
    repetitions: int = 5  # of this, for each flow
    output: str | None = None  # by default compressed/ beside `pretrained`
    device: str = "auto"  # or cpu, cuda, cuda:1, mps


def compress(config: CompressSettings) -> None:
    """Leave a smaller flow in a folder, and beside it a report on both."""
    for name in ("num_samples", "repetitions", "multiple"):
        check_integer(name, getattr(config, name), least=1)
    parts, directory = read_parts(config.parts), find_pretrained(config.checkpoint)
    output = Path(config.output or beside(directory, "compressed"))
    pretrained = output / "pretrained"
    if pretrained.exists():
        raise CheckpointError(f"{pretrained} is there already: choose another with output=...")
    flow = _flow(directory).to(device_of(config.device))
    data: ImageData = instantiate(config.data.data)
    check_fit(flow, data)
    part_of(data, "test")
    options = (config.num_images, config.batch_size, config.seed)
    search = Bisection(SomeImages(part_of(data, "validation"), *options), config.tolerance)
    with writing(output):
        check_writable(output)
    activations = _measure(flow, SomeImages(part_of(data, "train"), *options), parts)
    skeletons = Skeletons.of(flow, activations, parts, config.multiple)
    found = _search(skeletons, search)
    metrics = LikelihoodMetrics(batch_size=config.batch_size, seed=config.seed)
    report = report_on(flow, found, data, metrics, config.num_samples, config.repetitions)
    with writing(output):
        found.flow.save_pretrained(pretrained, f"compressed from {directory}")
        path = report.write(output, pretrained, directory)
    report.print()
    print(f"{path}; the smaller flow: {pretrained}")


def read_parts(names: Sequence[str]) -> tuple[Units, ...]:
    """The kinds of units of some names."""
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise ConfigurationError(f"parts={shown(names)}: give {', '.join(PARTS)}, or one of them")
    return tuple(PARTS[name] for name in dict.fromkeys(names))


def _flow(directory: Path) -> TarFlow:
    """The flow of a folder."""
    model = load(directory)
    if not isinstance(model, TarFlow):
        raise CheckpointError(
            f"{directory} holds a {type(model).__name__}, which cannot be compressed: give a"
            " TarFlow, as `tarflow train` and `tarflow convert` make them"
        )
    return model


def _measure(flow: TarFlow, images: SomeImages, parts: tuple[Units, ...]) -> Activations:
    """See what the units of a flow do, while a bar shows how far that is."""
    with progress("calibrating", len(images)) as show:

        def shown_batches():
            done = 0
            for x, context in images.batches(flow):
                yield x, context
                done += len(x)
                show(done)

        return measure(flow, shown_batches(), parts)


def _search(skeletons: Skeletons, search: Bisection) -> Tried:
    """Find the flow, while every one that is tried is told of."""
    console, unit = Console(), Unit.of(skeletons.flow).words
    before = Cost.of(skeletons.flow)

    def show(tried: Tried) -> None:
        cost = Cost.of(tried.flow)
        console.print(
            f"threshold {tried.threshold:.1e}: {cost.operations / before.operations:.0%} of"
            f" operations, {cost.mlp_operations / before.mlp_operations:.0%} in MLPs,"
            f" {tried.rise:+.4f} {unit}"
        )

    console.print(f"bisecting by {len(search.images)} images of the validation part")
    with console.status("bisecting"):
        return search(skeletons, show)
