"""`tarflow sample`: draws samples."""

from dataclasses import dataclass
from pathlib import Path

import torch

from tarflow.arguments import check_integer
from tarflow.cli.choices import beside, device_of, find_pretrained, load_model, put_tokenizer
from tarflow.cli.command import instantiate
from tarflow.cli.samplers import sampler_of
from tarflow.cli.settings import Section, Settings
from tarflow.errors import ConfigurationError
from tarflow.flows.table_columns import TableColumns
from tarflow.machine.processes import Process
from tarflow.sampling.array_layout import layout_of
from tarflow.sampling.gallery import Gallery, real_images
from tarflow.sampling.sample_folder import SampleFolder
from tarflow.sampling.sample_run import SampleRun

SHOWN = ("num_samples", "grid_samples", "columns", "save_png", "save_npz", "data")
"""Keys of `tarflow sample` that change the files made of its samples, and not the samples."""

OF_STUDENTS = ("steps", "flow", "best_of")
OF_FLOWS = (
    *("guidance_rule", "temperature", "denoise", "denoiser", "denoising_steps"),
    *("compile", "decoder", "tolerance", "window", "certify"),
)
"""Keys that mean nothing for the other kind of model."""


@dataclass(frozen=True, kw_only=True)
class SampleSettings(Settings):
    """The settings of `tarflow sample`."""

    checkpoint: str = "???"  # a run folder or a pretrained folder
    tokenizer: str | None = None  # one with another decoder, for a flow of latents
    num_samples: int = 100
    label: str | int | list[str | int] = "all"  # go round the classes; none; cats; 3; or [3,dogs]
    context: Section  # other conditions by name: one value, or values to go round
    guidance: float = 0.0  # weight; 0 is off; of a student, a condition of its network
    guidance_rule: Section
    temperature: float = 1.0  # attention temperature of the null; guides flows without classes
    denoise: bool | None = None  # null: yes, unless the tokenizer decodes noisy samples
    denoiser: Section
    denoising_steps: int = 30  # levels that denoisers of many noise levels go through
    seed: int = 0  # sample n of a seed is the same whatever the batch size
    batch_size: int = 100  # samples drawn, and written, at a time; fewer where memory runs out
    # Of the transformers: float32, bfloat16, float16 or bfloat16_products; by default that of the
    # plan, or of the weights.
    dtype: str | None = None
    certify: bool | None = None  # check each of lower precision; null: unless the plan chose that
    compile: bool = False  # run single steps compiled: pays after many samples, if at all
    steps: int | None = None  # passes of a student; by default its own number
    flow: str | None = None  # a flow that judges a student's samples, by log p and residual
    best_of: int = 1  # draws for each sample of a student, of which that flow keeps the likeliest
    decoder: Section
    tolerance: float = 1e-3  # largest residual of a certified sample; a plan is of one
    window: int = 64  # of decoder=jacobi
    data: Section | None = None  # one to see held-out images of beside the samples
    grid_samples: int = 100  # the first samples, those that the grid shows
    columns: int | None = None  # images in a row of the grid
    save_png: bool = False
    save_npz: bool | str = False  # true: images, labels; adm: arr_0 (N, H, W, C), arr_1
    output: str | None = None  # by default samples/ beside `pretrained`
    overwrite: bool = False  # true: replace what other settings left in the output folder
    device: str = "auto"  # or cpu, cuda, cuda:1, mps; several processes take a GPU each
    rank: int | None = None  # which of several processes this is, from 0; torchrun and srun tell
    world_size: int | None = None  # the number of these processes


def sample(config: SampleSettings) -> None:
    """Draw samples from a pretrained flow or student and leave pictures."""
    if config.columns is not None:
        check_integer("columns", config.columns, least=1)
    layout_of(config.save_npz)  # before anything is drawn
    directory = find_pretrained(config.checkpoint)
    process = Process.find(config.rank, config.world_size)
    device = device_of(config.device, process.local_rank)
    model = load_model(directory, device, OF_FLOWS, OF_STUDENTS)
    tokenizer = put_tokenizer(model, config.tokenizer)
    output = Path(config.output or beside(directory, "samples"))
    if isinstance(model.codec, TableColumns):
        _check_pictures(config)
    sampler, origin = sampler_of(config, model, directory)
    settings, num_samples = {**origin, **tokenizer, **sampler.settings}, config.num_samples
    folder, batch_size = SampleFolder(output), config.batch_size
    run = SampleRun(folder, settings, num_samples, batch_size, process, sampler=sampler)
    request = {key: config.composed.get(key) for key in SHOWN}
    files = run.files(request)
    if files:
        names = ", ".join(map(str, files))
        print(f"{num_samples} samples are drawn already. Their files: {names}")
        return
    with run.opened(config.overwrite, sampler.bytes_per_sample):
        run.fill("sampling", sampler)
        if not process.leads:
            print(f"process {process.rank} has drawn its share: process 0 makes the files")
            return
        if isinstance(sampler.codec, TableColumns):
            with folder.saving():
                folder.finish(request, _write_rows(run, sampler.codec))
            return
        panels = _panels(config, run)
        with folder.saving():
            folder.finish(request, _write_samples(config, run, panels))


def _check_pictures(config: SampleSettings) -> None:
    """Refuse what asks for pictures, of a flow of the rows of a table."""
    asked = {"save_png": config.save_png, "save_npz": config.save_npz, "data": config.data}
    for key, value in asked.items():
        if value:
            raise ConfigurationError(
                f"{key} is for images, and this model draws rows of a table, which samples.csv"
                " holds: leave it out"
            )


def _write_rows(run: SampleRun, columns: TableColumns) -> list[Path]:
    """Write rows as a table, and tell of the files."""
    gallery = Gallery(run.folder.directory, columns)
    certificates = run.certificates
    table = gallery.write_table(run.pixels("writing samples.csv"), columns)
    files = [table, gallery.write_certificates(certificates)]
    print(certificates, *run.sampler.notes, *files, sep="\n")
    return files


def _panels(config: SampleSettings, run: SampleRun) -> dict[str, torch.Tensor]:
    """What the grid shows: samples, denoised ones, real ones."""
    panels = run.panels(config.grid_samples)
    if config.data:
        count = len(panels["samples"])
        label = run.sampler.context(range(count)).label
        panels["real"] = real_images(instantiate(config.data.data).test, label, count)
    return panels


def _write_samples(config: SampleSettings, run: SampleRun, panels: dict) -> list[Path]:
    """Write the files that were asked for, and tell of them."""
    gallery = Gallery(run.folder.directory, run.sampler.codec, config.columns)
    certificates = run.certificates
    files = [gallery.write_grid(panels), gallery.write_certificates(certificates)]
    if config.save_png:
        files.append(gallery.write_images(run.pixels("writing images")))
    shape = run.sampler.stored_shape
    drawn = len(shape) == 3 and shape[0] in (1, 3)  # else pictures do not hold all
    if layout := layout_of(config.save_npz or (config.save_png and not drawn)):
        label = run.sampler.context(range(run.count)).label
        pixels = run.pixels("writing samples.npz")
        files.append(gallery.write_arrays(pixels, run.count, label, layout))
    print(certificates, *run.sampler.notes, *files, sep="\n")
    return files
