"""`tarflow sample`: draws samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from tarflow.arguments import check_integer
from tarflow.cli.choices import device_of, find_pretrained, guidance_of, read_dtype
from tarflow.cli.command import instantiate
from tarflow.errors import CheckpointError
from tarflow.flows.checkpoint import WEIGHTS
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.tar_flow import TarFlow
from tarflow.machine.processes import Process
from tarflow.sampling.drawing import read_classes
from tarflow.sampling.gallery import Gallery, real_images
from tarflow.sampling.plan import Conditions, Planned
from tarflow.sampling.sample_folder import fingerprints
from tarflow.sampling.sample_run import SampleRun
from tarflow.sampling.sampler import Sampler

SHOWN = ("num_samples", "grid_samples", "columns", "save_png", "save_npz", "data")
"""Keys of `tarflow sample` that change the files made of its samples, and not the samples."""


def sample(config: DictConfig) -> None:
    """Draw samples from a pretrained flow and leave pictures."""
    if config.columns is not None:
        check_integer("columns", config.columns, least=1)
    directory = find_pretrained(config.checkpoint)
    process = Process.find(config.rank, config.world_size)
    flow = TarFlow.from_pretrained(directory).to(device_of(config.device, process.local_rank))
    if flow.noise is None or flow.codec is None:
        raise CheckpointError(
            f"{directory} does not name the noise of its training: convert it with noise_std=..."
        )
    output = Path(config.output or directory.parent / "samples")
    origin = fingerprints(directory)
    classes = read_classes(config.label, flow.num_classes)
    options = _options(config, flow, directory)
    sampler = Sampler(flow, config.seed, classes, config.denoise, options)
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


def _options(config: DictConfig, flow: TarFlow, directory: Path) -> DecodeOptions:
    """How to decode."""
    decoder = instantiate(config.decoder)
    options = DecodeOptions(guidance_of(config), dtype=read_dtype(config.dtype))
    if isinstance(decoder, Planned):
        conditions = Conditions.of(flow, config.batch_size, options, decoder.tolerance)
        weights = fingerprints(directory)[WEIGHTS]
        decoder, message = decoder.choose(directory, replace(conditions, weights=weights))
        print(message)
    return replace(options, decoder=decoder, compile=config.compile)


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
    gallery = Gallery(run.directory, run.sampler.codec, config.columns)
    certificates = run.certificates
    files = [gallery.write_grid(panels), gallery.write_certificates(certificates)]
    if config.save_png:
        files.append(gallery.write_images(run.pixels("writing images")))
    if config.save_npz:
        label = run.sampler.label(range(run.num_samples))
        pixels = run.pixels("writing samples.npz")
        files.append(gallery.write_arrays(pixels, run.num_samples, label))
    print(certificates, *files, sep="\n")
    return files
