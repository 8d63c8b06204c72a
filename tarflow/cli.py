"""The commands: train, evaluate, sample, calibrate, convert. The only module that knows Hydra."""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import hydra.utils
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

from tarflow import calibration
from tarflow.checkpoint import WEIGHTS
from tarflow.data import ImageData
from tarflow.errors import CheckpointError, ConfigurationError, TarflowError
from tarflow.gallery import Gallery, real_images
from tarflow.guidance import Guidance
from tarflow.plan import Conditions, Planned
from tarflow.plan_table import PlanTable
from tarflow.processes import Process
from tarflow.published import read_published
from tarflow.sample_folder import fingerprints
from tarflow.sample_run import SampleRun
from tarflow.sampler import Sampler
from tarflow.sampling import read_classes, read_labels
from tarflow.tar_flow import TarFlow

instantiate = partial(hydra.utils.instantiate, _convert_="all")

PACKAGED = Path(__file__).parent / "conf"
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "conf"
"""The configuration: inside an installed wheel, or beside the package in a checkout."""

SHOWN = ("num_samples", "grid_samples", "columns", "save_png", "save_npz", "data")
"""Keys of `tarflow sample` that change the files made of its samples, and not the samples."""

DTYPES = ("float32", "bfloat16", "float16")

USAGE = """\
usage: tarflow COMMAND [key=value ...]

  train     experiment=digits_likelihood           fit a flow; `resume=auto` goes on after a kill
  evaluate  checkpoint=DIR data=digits             likelihood (metrics=samples: sample quality)
  sample    checkpoint=DIR num_samples=100         draw samples (label=3 guidance=1.5 seed=0 ...)
  calibrate checkpoint=DIR batch_size=100          find what samples fastest on this machine
  convert   weights.pth DIR [image_size=32]        read a published checkpoint

`tarflow COMMAND --help` shows every key and its choices. DIR is a run or a pretrained folder."""


def main() -> None:
    """Run the command that the first argument names."""
    commands = {
        "train": train,
        "evaluate": evaluate,
        "sample": sample,
        "calibrate": calibrate,
        "convert": convert,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        asked_for_help = len(sys.argv) == 2 and sys.argv[1] in ("-h", "--help", "help")
        sys.exit(print(USAGE) if asked_for_help else USAGE)
    command = sys.argv.pop(1)
    sys.argv[0] = f"tarflow {command}"
    commands[command]()


def train() -> None:
    """Fit a flow: `tarflow train experiment=...`."""
    _run("train", _train)


def evaluate() -> None:
    """Evaluate a flow: `tarflow evaluate checkpoint=... data=...`."""
    _run("evaluate", _evaluate)


def sample() -> None:
    """Draw samples: `tarflow sample checkpoint=...`."""
    _run("sample", _sample)


def calibrate() -> None:
    """Find the fastest decoders: `tarflow calibrate checkpoint=... batch_size=...`."""
    _run("calibrate", _calibrate)


def convert() -> None:
    """Turn a published checkpoint into a pretrained folder."""
    parser = argparse.ArgumentParser(description=read_published.__doc__, add_help=True)
    parser.add_argument("weights", help="the published file: a plain state dict")
    parser.add_argument("directory", help="the pretrained folder to write")
    parser.add_argument("options", nargs="*", help="image_size=32 or 32x64, noise_std=0.05")
    arguments = parser.parse_args()
    with _told_plainly():
        flow = read_published(arguments.weights, **_read_options(arguments.options))
        if (Path(arguments.directory) / "config.json").exists():
            raise CheckpointError(f"{arguments.directory} holds a model already: choose another")
        flow.save_pretrained(arguments.directory)
    num_parameters = sum(parameter.numel() for parameter in flow.parameters())
    print(f"{arguments.directory}: {num_parameters:,} parameters, {flow.config}")


def _run(name: str, task: Callable[[DictConfig], None]) -> None:
    """Compose a command's configuration from its arguments and run it."""

    def told_plainly(config: DictConfig) -> None:
        with _told_plainly():
            task(config)

    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(told_plainly)()


@contextmanager
def _told_plainly() -> Iterator[None]:
    """End the program with the message alone, where an error is the user's to mend."""
    try:
        yield
    except TarflowError as error:
        sys.exit(f"tarflow: {error}")
    except MissingMandatoryValue as error:
        sys.exit(f"tarflow: {error.full_key} is needed: give {error.full_key}=...")
    except InstantiationException as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        place = str(error).splitlines()[-1].removeprefix("full_key: ")
        sys.exit(f"tarflow: {error.__cause__} (in {place})")


def _train(config: DictConfig) -> None:
    """Fit a flow and leave a run folder."""
    import lightning

    from tarflow.training import Run

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6 on torch 2.15
    for harmless in (".*does not have many workers", ".*smaller than the logging interval"):
        warnings.filterwarnings("ignore", harmless)
    run = Run(Path(config.run_dir))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    checkpoint = run.start(plain, config.resume)
    if run.step() >= config.trainer.max_steps:
        print(
            f"{run.directory} is trained already: {run.step()} steps. Its model: {run.pretrained}"
        )
        return
    lightning.seed_everything(config.seed, verbose=False)
    datamodule = instantiate(config.data)
    flow = _make_flow(config, datamodule.data)
    module = instantiate(config.module, flow=flow)
    trainer = instantiate(
        config.trainer,
        logger=[instantiate(logger) for logger in (config.logger or {}).values()],
        callbacks=[instantiate(callback) for callback in config.callbacks.values()],
    )
    num_parameters = sum(parameter.numel() for parameter in flow.parameters())
    num_images = len(datamodule.data.train)
    print(f"{config.name}: {num_parameters:,} parameters, {num_images:,} training images")
    if checkpoint:
        print(f"going on from {checkpoint} at step {run.step()}")
    trainer.fit(module, datamodule, ckpt_path=checkpoint)
    print(f"the trained model is in {run.pretrained}")


def _make_flow(config: DictConfig, data: ImageData) -> TarFlow:
    """Make the flow; what the data determines need not be configured."""
    channels, height, width = data.image_shape
    determined = {
        "image_size": (height, width),
        "num_channels": channels,
        "num_classes": data.num_classes,
    }
    missing = {key: value for key, value in determined.items() if key not in config.model}
    noise = instantiate(config.noise, levels=data.levels)
    # Hydra would turn a dataclass that is passed to it into a dictionary.
    return instantiate(config.model, _partial_=True)(noise=noise, **missing)


def _evaluate(config: DictConfig) -> None:
    """Evaluate a pretrained flow and leave a report."""
    directory = find_pretrained(config.checkpoint)
    flow = TarFlow.from_pretrained(directory).to(_device(config.device))
    data = instantiate(config.data.data)
    report = instantiate(config.metrics)(flow, data)
    report.print()
    output = config.output or directory.parent / "evaluation" / report.name
    print(report.write(Path(output), directory))


def _sample(config: DictConfig) -> None:
    """Draw samples from a pretrained flow and leave pictures."""
    directory = find_pretrained(config.checkpoint)
    process = Process.find(config.rank, config.world_size)
    flow = TarFlow.from_pretrained(directory).to(_device(config.device, process.local_rank))
    if flow.noise is None:
        raise CheckpointError(
            f"{directory} does not name the noise of its training: convert it with noise_std=..."
        )
    output = Path(config.output or directory.parent / "samples")
    origin = fingerprints(directory)
    guidance = _guidance(config)
    sampler = Sampler(
        flow,
        config.seed,
        read_classes(config.label, flow.num_classes),
        guidance,
        config.denoise,
        _sample_options(config, flow, directory, guidance),
    )
    run = SampleRun(output, origin, sampler, config.num_samples, config.batch_size, process)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    request = {key: plain.get(key) for key in SHOWN}
    files = run.files(request)
    if files:
        names = ", ".join(map(str, files))
        print(f"{config.num_samples} samples are drawn already. Their files: {names}")
        return
    with run.opened(config.overwrite):
        run.draw()
        if process.leads:
            panels = _panels(config, run)
            with run.folder.saving():
                run.folder.finish(request, _write_samples(config, run, panels))


def _sample_options(
    config: DictConfig, flow: TarFlow, directory: Path, guidance: Guidance | None
) -> dict[str, Any]:
    """The options of `flow.sample` that are not left to it."""
    dtype = _read_dtype(config.dtype)
    decoder = instantiate(config.decoder)
    if isinstance(decoder, Planned):
        conditions = Conditions.of(flow, config.batch_size, guidance, dtype, decoder.tolerance)
        weights = fingerprints(directory)[WEIGHTS]
        decoder, message = decoder.choose(directory, replace(conditions, weights=weights))
        print(message)
    options = {"dtype": dtype, "decoder": decoder, "compile": config.compile}
    return {name: value for name, value in options.items() if value}


def _guidance(config: DictConfig) -> Guidance | None:
    """The guidance, where its weight is not 0."""
    return instantiate(config.guidance_rule) if config.guidance != 0 else None


def _calibrate(config: DictConfig) -> None:
    """Measure decoders and leave a plan in the pretrained folder."""
    directory = find_pretrained(config.checkpoint)
    flow = TarFlow.from_pretrained(directory).to(_device(config.device))
    table = PlanTable()
    with table.measuring():
        plan = calibration.calibrate(
            flow,
            config.batch_size,
            read_labels(config.label, config.batch_size, flow.num_classes),
            guidance=_guidance(config),
            dtype=_read_dtype(config.dtype),
            tolerance=config.tolerance,
            windows=config.windows,
            repetitions=config.repetitions,
            show=table.show,
            tell=table.tell,
        )
    table.print(plan)
    weights = fingerprints(directory)[WEIGHTS]
    plan = replace(plan, conditions=replace(plan.conditions, weights=weights))
    print(f"the plan is in {plan.save(directory)}: `tarflow sample` uses it where it holds")


def _panels(config: DictConfig, run: SampleRun) -> dict[str, torch.Tensor]:
    """What the grid shows: samples, denoised ones, real ones."""
    panels = run.panels(config.grid_samples)
    if config.get("data"):
        count = len(panels["samples"])
        label = run.sampler.label(range(count))
        panels["real"] = real_images(instantiate(config.data.data).test, label, count)
    return panels


def _write_samples(config: DictConfig, run: SampleRun, panels: dict) -> list[Path]:
    """Write the files that were asked for, and tell of them."""
    gallery = Gallery(run.directory, run.sampler.noise.levels, config.columns)
    files = [gallery.write_grid(panels)]
    if config.save_png:
        files.append(gallery.write_images(run.pixels("writing images")))
    if config.save_npz:
        label = run.sampler.label(range(run.num_samples))
        pixels = run.pixels("writing samples.npz")
        files.append(gallery.write_arrays(pixels, run.num_samples, label))
    print(*files, sep="\n")
    return files


def _read_dtype(name: str | None) -> torch.dtype | None:
    """Read the name of a precision; None is that of the weights."""
    if name is None:
        return None
    if name not in DTYPES:
        raise ConfigurationError(f"dtype={name} is unknown: give {', '.join(DTYPES)}")
    return getattr(torch, name)


def find_pretrained(checkpoint: str) -> Path:
    """The pretrained folder that a path means: itself, or the one in a run folder.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(checkpoint)
    for candidate in (path, path / "pretrained"):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    raise CheckpointError(
        f"{path} is neither a pretrained folder (config.json and model.safetensors) nor a run"
        " folder with one in `pretrained`: train first, or convert a published checkpoint"
    )


def _device(name: str, local_rank: int = 0) -> torch.device:
    """The device to compute on; `auto` is the accelerator if there is one, this process's own."""
    if name != "auto":
        return torch.device(name)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    count = torch.accelerator.device_count()
    if count > 1:
        device = torch.device(device.type, local_rank % count)
        torch.accelerator.set_device_index(
            device.index
        )  # graphs and kernels go to the current one
    return device


def _read_options(options: list[str]) -> dict[str, Any]:
    """Read `image_size=32`, `image_size=32x64` and `noise_std=0.05`."""
    readers: dict[str, Callable[[str], Any]] = {"image_size": _read_size, "noise_std": float}
    values = {}
    for option in options:
        key, _, text = option.partition("=")
        if key not in readers:
            raise CheckpointError(f"{option}: allowed are image_size=... and noise_std=...")
        try:
            values[key] = readers[key](text)
        except ValueError as error:
            message = f"{option} cannot be read: write image_size=32 or 32x64, noise_std=0.05"
            raise CheckpointError(message) from error
    return values


def _read_size(text: str) -> tuple[int, int]:
    """Read `32` or `32x64`: height and width."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)
