"""The commands: train, evaluate, sample, convert. The only module that knows Hydra."""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import hydra.utils
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from rich.progress import track

from tarflow.data import ImageData
from tarflow.denoising import denoise
from tarflow.errors import CheckpointError, TarflowError
from tarflow.gallery import Gallery, real_images
from tarflow.noise import GaussianNoise
from tarflow.published import read_published
from tarflow.sampling import read_labels, sample_batches
from tarflow.tar_flow import TarFlow

instantiate = partial(hydra.utils.instantiate, _convert_="all")

PACKAGED = Path(__file__).parent / "conf"
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "conf"
"""The configuration: inside an installed wheel, or beside the package in a checkout."""

USAGE = """\
usage: tarflow COMMAND [key=value ...]

  train     experiment=digits_likelihood           fit a flow; `resume=auto` goes on after a kill
  evaluate  checkpoint=DIR data=digits             likelihood (metrics=samples: sample quality)
  sample    checkpoint=DIR num_samples=100         draw samples (label=3 guidance=1.5 seed=0 ...)
  convert   weights.pth DIR [image_size=32]        read a published checkpoint

`tarflow COMMAND --help` shows every key and its choices. DIR is a run or a pretrained folder."""


def main() -> None:
    """Run the command that the first argument names."""
    commands = {"train": train, "evaluate": evaluate, "sample": sample, "convert": convert}
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
    flow = TarFlow.from_pretrained(directory).to(_device(config.device))
    if flow.noise is None:
        raise CheckpointError(
            f"{directory} does not name the noise of its training: convert it with noise_std=..."
        )
    guidance = instantiate(config.guidance_rule) if config.guidance != 0 else None
    label = read_labels(config.label, config.num_samples, flow.num_classes)
    batches = sample_batches(
        flow, config.num_samples, label, config.seed, config.batch_size, guidance
    )
    num_batches = -(-config.num_samples // config.batch_size)
    noisy, clean = [], []
    for x, part in track(batches, total=num_batches, description="sampling"):
        noisy.append(flow.noise.to_pixels(x).cpu())
        if config.denoise and isinstance(flow.noise, GaussianNoise):
            clean.append(flow.noise.to_pixels(denoise(flow, x, part)).cpu())
    gallery = Gallery(
        Path(config.output or directory.parent / "samples"), flow.noise.levels, config.columns
    )
    panels = {"samples": torch.cat(noisy)}
    if clean:
        panels["denoised"] = torch.cat(clean)
    pixels = torch.cat(clean or noisy)
    if config.get("data"):
        panels["real"] = real_images(instantiate(config.data.data).test, label, len(pixels))
    print(gallery.write_grid(panels))
    if config.save_png:
        print(gallery.write_images(pixels))
    if config.save_npz:
        print(gallery.write_arrays(pixels, label))


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


def _device(name: str) -> torch.device:
    """The device to compute on; `auto` is the accelerator if there is one."""
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


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
