"""Every message of the page on troubleshooting is said, and no other stands there."""

import contextlib
import io
import logging
import multiprocessing
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tarflow import (
    GaussianNoise,
    LinearGuidance,
    Pixels,
    ProbabilityFlow,
    TarFlow,
    TarflowError,
    UniformLevels,
    denoise,
    load,
)
from tarflow.cli.choices import device_of, find_pretrained
from tarflow.cli.settings import check
from tarflow.data import (
    ArrayDataset,
    ImageData,
    ImageDataModule,
    arrays,
    cifar10,
    digits,
    image_folder,
    prepare,
    random_images,
)
from tarflow.data.images import count_classes
from tarflow.data.loading.batches import read_batch
from tarflow.data.loading.reading import ReadAhead
from tarflow.data.loading.shares import BatchShares
from tarflow.data.storage.image_files import ImageFiles
from tarflow.evaluation import LikelihoodMetrics
from tarflow.flows.published import read_published
from tarflow.machine.processes import Process
from tarflow.nn.kernels import FlashAttention
from tarflow.sampling.chunks import ChunkSize
from tarflow.sampling.drawing import read_classes
from tarflow.sampling.sample_folder import SampleFolder
from tarflow.training import MaximumLikelihood
from tarflow.training.precision import check_precision
from tarflow.training.run import Run

from .models import tiny_flow
from .test_cli import error_of, tarflow
from .test_training.test_module import fit, poison, tiny_module
from .test_training.test_module import tiny_flow as flow_to_train

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
ENTRY = re.compile(r"^\| `(.+?)` \| (.+?) \| (.+?) \|$", re.MULTILINE)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

Provoke = Callable[[Path], Any]
PROVOKED: dict[str, Provoke] = {}
"""For each message of the page, what provokes it in a folder."""


def provokes(message: str) -> Callable[[Provoke], Provoke]:
    def keep(provoke: Provoke) -> Provoke:
        assert message not in PROVOKED
        PROVOKED[message] = provoke
        return provoke

    return keep


def pattern_of(message: str) -> re.Pattern:
    """What a message of the page stands for."""
    return re.compile(".+?".join(map(re.escape, message.split("…"))), re.DOTALL)


def test_the_page_lists_what_is_provoked():
    listed = [message for message, *_ in ENTRY.findall(PAGE.read_text())]
    assert sorted(listed) == sorted(PROVOKED)
    assert len(listed) >= 30


@pytest.mark.parametrize("message", PROVOKED)
def test_every_message_is_said(message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TarflowError, Warning, SystemExit)) as caught:
        PROVOKED[message](tmp_path)
    assert pattern_of(message).search(str(caught.value))


def small_data(count: int = 12) -> ImageData:
    images = torch.randint(17, (count, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    part = ArrayDataset(images.to(torch.uint8), torch.arange(count) % 3)
    return ImageData("made up", part, None, part, Pixels(17), 3, (1, 4, 4))


def batches() -> ImageDataModule:
    return ImageDataModule(small_data(), 4)


def saved(folder: Path) -> Path:
    flow = tiny_flow(num_channels=1, num_classes=3, codec=Pixels(17), noise=GaussianNoise(0.3))
    flow.save_pretrained(folder / "pretrained")
    return folder / "pretrained"


def array_file(folder: Path, images: np.ndarray) -> Path:
    np.savez(folder / "file.npz", images=images)
    return folder / "file.npz"


@provokes("there is no folder …")
def no_folder(folder):
    image_folder(folder / "none", 8)


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return folder / "photos"


@provokes("…: … pictures…; left out: …")
def told_of_a_folder(folder):
    root = pictures(folder, *(f"{name}/{index}.png" for name in "ab" for index in range(12)))
    (root / "notes.txt").write_text("")
    with contextlib.redirect_stderr(io.StringIO()) as told:
        image_folder(root, 8, verify=False)
    raise SystemExit(told.getvalue())


@provokes("… holds … but not test: name the images to report on test")
def no_test_part(folder):
    image_folder(pictures(folder, "train/a/0.png", "train/b/1.png", "val/a/2.png"), 8)


@provokes("… holds pictures (…) beside the folders of classes: move them into one, or elsewhere")
def loose_pictures(folder):
    image_folder(pictures(folder, "a/0.png", "b/1.png", "2.png"), 8)


@provokes("… of … images cannot be used: …. Replace or remove these files")
def damaged_pictures(folder):
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(4):
            (folder / "photos" / name / f"{index}.png").write_bytes(b"no picture")
    image_folder(folder / "photos", 8)


@provokes("example … is left out, since it cannot be read: …")
def damaged_picture(folder):
    root = pictures(folder, "a/0.png", "a/1.png")
    (root / "a" / "1.png").write_bytes(b"no picture")
    files = ImageFiles([(str(path), 0) for path in sorted((root / "a").iterdir())], 8)
    told, log = io.StringIO(), logging.getLogger("tarflow")
    log.addHandler(handler := logging.StreamHandler(told))
    ReadAhead(files)(range(2))
    log.removeHandler(handler)
    raise SystemExit(told.getvalue())


@provokes("… have dtype …, but pixels are integers 0 ... …")
def scaled_pixels(folder):
    arrays(array_file(folder, np.zeros((9, 4, 4), np.float32)))


@provokes("… go from … to …, but with … levels pixels are 0 ... …")
def pixels_out_of_range(folder):
    arrays(array_file(folder, np.full((9, 4, 4), 20)), levels=17)


@provokes("… have shape …, which does not tell where channels are")
def ambiguous_channels(folder):
    arrays(array_file(folder, np.zeros((9, 8, 8, 8), np.uint8)))


@provokes("the labels of … go from … to …, but no training image is of class …")
def labels_from_1(folder):
    count_classes({"train": np.array([1, 2])}, None, str(folder))


@provokes("class … has … example, too few to split")
def lonely_image(folder):
    labels = np.array([0] * 39 + [1])
    np.savez(folder / "file.npz", images=np.zeros((40, 4, 4), np.uint8), labels=labels)
    arrays(folder / "file.npz")


@provokes("cannot read …. Save arrays of integers with numpy.savez or numpy.save")
def damaged_arrays(folder):
    (folder / "file.npz").write_bytes(b"no archive")
    arrays(folder / "file.npz")


@provokes("there are … images, but … has …: complete them, or pass check_counts=false")
def incomplete_data_set(folder):
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (folder / name).write_bytes(bytes(3073))
    cifar10(folder)


@provokes("… exists already: choose another output, or remove it")
def prepared_before(folder):
    prepare(random_images(4, 2, image_size=4), folder)


@provokes("batch_size … exceeds the … training images, so every batch would be left out")
def large_batch(_):
    ImageDataModule(small_data(), 13)


@provokes("batch_size … cannot be divided evenly between … processes: choose a multiple of …")
def uneven_batch(_):
    BatchShares.divide(10, None, 0, 4)


@provokes("device_batch_size … does not divide the … images that each of … processes takes")
def uneven_parts(_):
    BatchShares.divide(12, 5, 0, 1)


@provokes("… has no … part: set data.validation_fraction")
def no_validation_part(folder):
    LikelihoodMetrics(split="validation")(load(saved(folder)), small_data())


@provokes("… has …, but the flow was made for …")
def other_data(folder):
    LikelihoodMetrics()(load(saved(folder)), digits())


@provokes("… is needed: give …=…")
def missing_setting(_):
    raise SystemExit(error_of("sample"))


@provokes("…=…: needed is int")
def wrong_type(_):
    raise SystemExit(error_of("sample", "checkpoint=somewhere", "num_samples=many"))


@provokes("… are several values: write […] for a list, or add --multirun for a sweep")
def several_values(_):
    raise SystemExit(error_of("train", "optimizer.lr=1e-3,1e-4"))


@provokes("_target_=… is not to be found")
def unknown_target(_):
    check({"_target_": "tarflow.evaluation.NoMetrics"})


@provokes("trainer.…=… is not a setting here: …")
def other_setting(_):
    raise SystemExit(error_of("train", "+trainer.gradient_clip_val=1"))


@provokes("device=… cannot be used (…): give auto, cpu, cuda, cuda:1 or mps")
def unknown_device(_):
    device_of("tpu")


@provokes("… is neither a pretrained folder (config.json and model.safetensors) nor a run folder")
def no_model(folder):
    find_pretrained(str(folder))


@provokes("… cannot be written (…): make room, or see to its permissions")
def unwritable(folder):
    model = saved(folder)
    (folder / "file").write_text("")
    raise SystemExit(error_of("sample", f"checkpoint={model}", "num_samples=4", "output=file"))


@provokes("the step after … is not finite (…): skipped, … in all")
def overflow(_):
    flow = flow_to_train()
    fit(tiny_module(flow), batches(), max_steps=2, callbacks=[poison(flow, (1,))])


@provokes("… others of this run were skipped, as many as max_skipped_steps allows")
def divergence(_):
    flow = flow_to_train()
    module = tiny_module(flow, max_skipped_steps=0)
    fit(module, batches(), max_steps=2, callbacks=[poison(flow, (1,))])


@provokes(
    "precision … is not one of 32-true, bf16-mixed and 16-mixed, which keep the weights, their"
    " averages and the noise in float32"
)
def narrow_weights(_):
    check_precision("bf16-true", sharded=False)


@provokes("labels go from … to …, but this model knows 0 ... …")
def too_many_classes(_):
    fit(tiny_module(flow_to_train(num_classes=2)), batches())


@provokes("model_dim … is not a multiple of head_dim …")
def uneven_heads(_):
    TarFlow(8, 2, 1, 2, 1, model_dim=60, head_dim=32)


@provokes("patch_size … does not divide the image size …")
def uneven_patches(_):
    TarFlow(8, 3, 1, 2, 1, model_dim=16, head_dim=8)


@provokes("the flow does not know its data: pass it a codec and a noise")
def flow_without_codec(_):
    tiny_module(flow_to_train(codec=None, noise=None))


@provokes(
    "drop_last=False leaves a smaller batch, which cannot be divided between processes or steps"
)
def smaller_last_batch(_):
    data = ImageDataModule(small_data(), 8, device_batch_size=4, drop_last=False)
    fit(tiny_module(flow_to_train()), data)


@provokes("… exists: go on from it with resume=auto, or choose another run_dir")
def started_before(folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"state")
    Run(folder).start({}, "never")


def started(folder: Path) -> Run:
    run = Run(folder)
    run.start({"model": {"model_dim": 16}}, "auto")
    run.check_data(small_data())
    run.checkpoint.parent.mkdir()
    run.checkpoint.touch()
    return run


@provokes("… holds a run with other settings, on which its result depends (…)")
def other_settings(folder):
    started(folder).start({"model": {"model_dim": 32}}, "auto")


@provokes("the data of … are not those it was trained on (…)")
def changed_data(folder):
    started(folder).check_data(small_data(13))


@provokes("… cannot be read (…): it is kept as it is; move it away or choose another run_dir")
def damaged_state(folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"state")
    Run(folder).step()


@provokes("resume=… is unknown: allowed are auto and never")
def unknown_resume(folder):
    Run(folder).start({}, "always")


@provokes("another process of rank … works in …")
def two_of_a_rank(folder):
    other = multiprocessing.get_context("fork").Process(target=hold, args=(folder,))
    other.start()
    try:
        while not (folder / "held").exists():
            time.sleep(0.01)
        with Process().claim(folder):
            pass
    finally:
        other.kill()
        other.join()


def hold(folder: Path) -> None:
    """Keep a folder until this process is killed."""
    with Process().claim(folder):
        (folder / "held").touch()
        time.sleep(60)


@provokes("… holds samples of other settings (…): choose another output=…")
def other_samples(folder):
    model = saved(folder)
    command = ["sample", f"checkpoint={model}", "num_samples=4", "output=out"]
    tarflow(*command)
    raise SystemExit(error_of(*command, "seed=7"))


@provokes("the samples take … GB, but … GB are free on the disk of …")
def small_disk(folder):
    SampleFolder(folder).check_space(10**18)


@provokes("label=…: this model knows …")
def unknown_class(_):
    read_classes(10, 10)


@provokes("guidance needs a null prediction that differs from the conditional one")
def guidance_without_label(_):
    tiny_flow(num_channels=1, num_classes=3).sample(2, guidance=LinearGuidance(2.0))


@provokes("this flow is one of data at many noise levels, and none is given")
def no_level(_):
    tiny_flow(noise=UniformLevels()).log_prob(torch.zeros(2, 2, 4, 4))


@provokes(
    "… goes through many noise levels, but this flow was trained with …: denoise it by OneStep()"
)
def a_ladder_for_one_level(_):
    flow = tiny_flow(noise=GaussianNoise(0.3))
    denoise(flow, torch.zeros(2, 2, 4, 4), denoiser=ProbabilityFlow())


@provokes("level_power … weights by noise levels, but this flow has noise of one")
def weights_without_levels(_):
    flow = tiny_flow(num_channels=1, codec=Pixels(17), noise=GaussianNoise(0.3))
    batch = read_batch(small_data().train, range(2))
    MaximumLikelihood(level_power=1)(flow, batch, None)


@provokes("memory ran out: going on with … examples at a time")
def full_memory(_):
    def compute(rows: slice) -> torch.Tensor:
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("out of memory")
        return torch.zeros(rows.stop - rows.start)

    ChunkSize().map(compute, 4)


@provokes("… is damaged or truncated: …")
def truncated_weights(folder):
    weights = saved(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    load(weights.parent)


@provokes("… has format …, but this version of tarflow reads formats …")
def later_format(folder):
    config = saved(folder) / "config.json"
    config.write_text(re.sub(r'"format": \d+', '"format": 99', config.read_text()))
    load(config.parent)


@provokes("… names …, which is not known here: import the package that defines it first")
def unknown_part(folder):
    config = saved(folder) / "config.json"
    config.write_text(config.read_text().replace('"GaussianNoise"', '"MyNoise"'))
    load(config.parent)


@provokes("… is damaged, truncated, or holds more than tensors: …")
def no_weights(folder):
    (folder / "weights.pth").write_bytes(b"no weights")
    read_published(folder / "weights.pth")


@provokes("… cannot serve: …. Choose attention=auto, or mend that")
def no_kernel(_):
    FlashAttention().serving(torch.zeros(1, 1, 4, 8))
