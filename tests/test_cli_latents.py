"""Flows of latents by the commands: prepared, trained, sampled, evaluated; mismatches refused."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tarflow import (
    ConfigurationError,
    ExampleSeeds,
    Flow,
    GaussianNoise,
    Pixels,
    ProbabilityFlow,
    UniformLevels,
    denoise,
    load,
)
from tarflow.data import latents, random_images
from tarflow.evaluation import LikelihoodMetrics
from tarflow.sampling.flow_sampler import FlowSampler
from tests.composing import composed
from tests.extensions.extra.tokenizer import Pooled
from tests.models import tiny_flow
from tests.test_cli import error_of, tarflow

NUM_TRAIN, NUM_TEST = 64, 20
IMAGES = [
    *("data=random", "data.data.image_size=8", "data.data.num_classes=4"),
    *(f"data.data.num_train={NUM_TRAIN}", f"data.data.num_test={NUM_TEST}"),
]
LATENTS = ["data=latents", "data.data.root=latents", "data.num_workers=0"]
NOISE = ["noise=gaussian", "noise.std=0.3"]
SMALL = [
    *("model.num_transforms=2", "model.num_layers=1", "model.model_dim=16", "model.head_dim=8"),
    *("data.batch_size=16", "schedule={warmup_steps: 1, total_steps: 9}"),
    *("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "callbacks.throughput=null"),
    *("callbacks.sample_grid.num_samples=4", "callbacks.sample_grid.every_n_steps=2"),
    "callbacks.averaging.decays=[0.5]",
]
SAMPLE = ["num_samples=6", "batch_size=6", "save_npz=true", "device=cpu"]
FEW = ["metrics=samples", "metrics.num_samples=8", "metrics.seeds=[0]", "device=cpu"]


def tokenizers() -> dict[str, Pooled]:
    """One, the same with a decoder for noisy latents, and one of other latents."""
    torch.manual_seed(1)
    made = {name: Pooled(8) for name in ("tokenizer", "other")}
    made["tuned"] = Pooled(8, decodes_noise=0.3)
    train = random_images(NUM_TRAIN, NUM_TEST, 8, num_classes=4).train
    for tokenizer in made.values():
        tokenizer.measure([torch.stack([train[index][0] for index in range(NUM_TRAIN)])])
    torch.nn.init.normal_(made["tuned"].decoder.weight)
    torch.nn.init.constant_(made["other"].gain, 2.0)
    return made


def train(*arguments: str, run: str = "run", steps: int = 2) -> None:
    tarflow("train", *SMALL, *arguments, f"run_dir={run}", f"trainer.max_steps={steps}")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with tokenizers, prepared latents and a flow of these."""
    folder = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, tokenizer in tokenizers().items():
            tokenizer.save_pretrained(name)
        told = ["tokenizer=tokenizer", "output=latents", "num_workers=0", "device=cpu"]
        tarflow("prepare", *IMAGES, *told)
        validated = ["trainer.check_val_every_n_epoch=null", "+trainer.val_check_interval=2"]
        train(*LATENTS, *NOISE, "data.data.validation_fraction=0.25", *validated)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(made, tmp_path, monkeypatch) -> None:
    """A copy of that folder, to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def columns(run: str) -> list[dict[str, str]]:
    logs = sorted(Path(run, "logs").glob("version_*/metrics.csv"))
    return [row for log in logs for row in csv.DictReader(log.read_text().splitlines())]


def losses(run: str) -> list[float]:
    name = "train/nats_per_latent_dim"
    return [float(row[name]) for row in columns(run) if row.get(name)]


def report(metric: str = "likelihood") -> dict:
    return json.loads(Path("run/evaluation", metric, "report.json").read_text())


def drawn(*arguments: str) -> np.ndarray:
    tarflow("sample", "checkpoint=run", *SAMPLE, "output=drawn", "overwrite=true", *arguments)
    return np.load("drawn/samples.npz")["images"]


def assert_images(found: np.ndarray, expected: torch.Tensor) -> None:
    """The same bytes, but for what is rounded the other way."""
    assert (found.shape, found.dtype) == ((6, 3, 8, 8), np.uint8)
    assert np.abs(found.astype(int) - expected.numpy().astype(int)).max() <= 1


def test_what_training_logs_is_told_per_latent_dimension():
    names = set(columns("run")[0])
    assert {"train/nats_per_latent_dim", "val/nats_per_latent_dim"} <= names
    assert not [name for name in names if "bits" in name or name.endswith("/nats_per_dim")]
    assert Path("run/grids/step_0000002.png").exists()


def test_the_folder_of_the_flow_needs_no_other(tmp_path):
    shutil.move("run/pretrained", "alone")
    for folder in ("tokenizer", "latents", "run"):
        shutil.rmtree(folder)
    flow = load("alone")
    assert isinstance(flow.codec, Pooled)
    assert not any(parameter.requires_grad for parameter in flow.codec.parameters())
    images = random_images(4, 4, 8).test[0][0][None]
    assert torch.equal(flow.codec.encode(images), tokenizers()["tokenizer"].encode(images))


def test_encoding_as_it_trains_is_training_on_prepared_latents_and_goes_on():
    told = [*NOISE, "callbacks.sample_grid=null"]
    train(*LATENTS, *told, run="prepared", steps=3)
    encoded = [*IMAGES, *told, "tokenizer=tokenizer"]
    for steps in (2, 3):
        train(*encoded, run="encoded", steps=steps)
    assert len(losses("prepared")) == 3
    assert losses("encoded") == pytest.approx(losses("prepared"), abs=1e-5)
    other = [*encoded[:-1], "tokenizer=tuned", "run_dir=encoded", "trainer.max_steps=5"]
    assert "origin.tokenizer.model.safetensors" in error_of("train", *SMALL, *other)


def test_samples_are_decoded_from_denoised_latents():
    flow = load("run/pretrained")
    label, source = torch.arange(6) % 4, ExampleSeeds(0, range(6))
    x = flow.sample(6, label, source=source)
    assert_images(drawn(), flow.codec.decode(denoise(flow, x, label)))
    assert_images(drawn("denoise=false"), flow.codec.decode(x))


def test_a_decoder_that_was_tuned_on_noise_takes_the_place_of_denoising():
    flow, tuned = load("run/pretrained"), load("tuned")
    label, source = torch.arange(6) % 4, ExampleSeeds(0, range(6))
    x = flow.sample(6, label, source=source)
    assert_images(drawn("tokenizer=tuned"), tuned.decode(x))
    told = json.loads(Path("drawn/shards/settings.json").read_text())
    assert (told["denoise"], len(told["tokenizer"])) == (False, 16)
    both = drawn("tokenizer=tuned", "denoise=true")
    assert_images(both, tuned.decode(denoise(flow, x, label)))


def test_noise_levels_are_gone_down_unless_the_decoder_is_tuned():
    train(*LATENTS, "tokenizer=tuned", "noise=levels", "noise.high=0.3", run="levels")
    names = set(columns("levels")[0])
    assert {"train/weighted_nats_per_latent_dim", "train/nats_per_latent_dim"} <= names
    flow = load("levels/pretrained")
    assert isinstance(flow.noise, UniformLevels)
    assert flow.codec.decodes_noise == 0.3
    assert FlowSampler(flow).panels == ("samples",)
    tarflow("sample", "checkpoint=levels", *SAMPLE, "denoise=true", "denoising_steps=3")
    label, source = torch.arange(6) % 4, ExampleSeeds(0, range(6))
    x = flow.sample(6, label, source=source)
    clean = denoise(flow, x, label, denoiser=ProbabilityFlow(3), source=source)
    assert_images(np.load("levels/samples/samples.npz")["images"], flow.codec.decode(clean))


def test_tokenizers_of_other_latents_do_not_decode():
    for command in ("sample", "evaluate"):
        told = [command, "checkpoint=run", "tokenizer=other"]
        assert "tokenizer=other has latents" in error_of(*told)
    message = error_of("sample", "checkpoint=run", "tokenizer=run")
    assert "holds a TarFlow, which is not a Tokenizer" in message


def test_likelihoods_are_the_same_of_latents_and_of_their_images(capsys):
    found = {}
    for name, data in {"latents": LATENTS, "images": IMAGES}.items():
        tarflow("evaluate", "checkpoint=run", *data, "device=cpu")
        said = " ".join(capsys.readouterr().out.split())
        assert "nats per latent dimension at sigma 0.3" in said
        assert "bits" not in said
        found[name] = report()["noisy_nats_per_latent_dim"]["mean"]
        assert not [key for key in report() if "bits" in key or key == "nats_per_dim"]
    assert found["images"] == pytest.approx(found["latents"], abs=1e-5)
    flow = load("run/pretrained")
    assert isinstance(flow, Flow)
    test = latents("latents").test
    x = torch.stack([test[index][0] for index in range(NUM_TEST)])
    label = torch.tensor([test[index][1]["label"] for index in range(NUM_TEST)])
    noisy = flow.noise(x, ExampleSeeds(0, range(NUM_TEST)))
    expected = -flow.log_prob(noisy, label).mean().item() / (3 * 4 * 4)
    assert found["latents"] == pytest.approx(expected, abs=1e-5)


def test_likelihoods_of_latents_without_noise_are_compared(capsys):
    train(*LATENTS, "noise=no_noise", "callbacks.sample_grid=null", run="clean", steps=1)
    tarflow("evaluate", "checkpoint=clean", "baseline=clean", *LATENTS, "device=cpu")
    said = " ".join(capsys.readouterr().out.split())
    assert "nats per latent dimension" in said
    assert "difference, nats_per_latent_dim" in said
    for options in ({"unit": "bits"}, {"importance_samples": 3}):
        with pytest.raises(ConfigurationError, match="its density is not one of pixels"):
            LikelihoodMetrics(**options)(load("clean/pretrained"), latents("latents"))


def test_samples_are_judged_as_images(capsys):
    tarflow("evaluate", "checkpoint=run", *IMAGES, *FEW)
    assert "denoised" in capsys.readouterr().out
    told = report("samples")
    assert f"latents {load('tokenizer').latents_sha256}" in told["codec"]
    message = error_of("evaluate", "checkpoint=run", *LATENTS, *FEW)
    assert "holds latents, and samples are compared with images: give the data set" in message
    tarflow("evaluate", "checkpoint=run", *IMAGES, *FEW, "tokenizer=tuned", "output=tuned_report")
    assert json.loads(Path("tuned_report/report.json").read_text()) != told


def test_pixels_and_latents_are_not_mixed_up():
    assert "has image shape" in error_of("evaluate", "checkpoint=run", "data=digits")
    known = {"num_classes": 4, "codec": Pixels(256), "noise": GaussianNoise(0.3)}
    tiny_flow(4, 2, 3, num_layers=1, **known).save_pretrained("pixels")
    message = error_of("evaluate", "checkpoint=pixels", *LATENTS)
    assert "has codec 'Pooled, latents" in message
    message = error_of("sample", "checkpoint=pixels", "tokenizer=tokenizer")
    assert "decodes latents, but the model is one of pixels" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*LATENTS], "as of noise=uniform, makes numbers of pixels, but random"),
        ([*LATENTS, *NOISE, "tokenizer=other"], "but the tokenizer is for"),
        (["data=digits", *NOISE, "tokenizer=tokenizer"], "has shape (1, 8, 8), but the tokenizer"),
        (["data=latents", "data.data.root=run", *NOISE], "there is no run/meta.json"),
    ],
)
def test_training_refuses_what_does_not_fit(options, words):
    message = error_of("train", *SMALL, *options, "run_dir=new", "trainer.max_steps=1")
    assert words in " ".join(message.split())
    assert not Path("new/pretrained").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["tokenizer=tokenizer", "format=shards"], "latents are kept as arrays"),
        (["tokenizer=tokenizer", "dtype=int8"], "give float32 or float16"),
        (["tokenizer=run"], "holds a TarFlow, which is not a Tokenizer"),
    ],
)
def test_preparing_refuses_what_it_cannot_do(options, words):
    assert words in error_of("prepare", *IMAGES, *options, "output=new", "device=cpu")
    assert not Path("new").exists()


def distill() -> None:
    options = [*SMALL[2:], "callbacks.sample_grid.every_n_steps=1", "trainer.max_steps=1"]
    tarflow(
        "distill", "checkpoint=run", *IMAGES, "model.num_layers=1", *options, "run_dir=student"
    )
    student = load("student/pretrained")
    assert student.codec.latents_sha256 == load("tokenizer").latents_sha256
    tarflow("sample", "checkpoint=student", *SAMPLE, "flow=run", "best_of=2", "tokenizer=tuned")
    assert np.load("student/samples/samples.npz")["images"].shape == (6, 3, 8, 8)


def calibrate() -> None:
    told = ["batch_size=2", "repetitions=1", "windows=[2]", "device=cpu"]
    tarflow("calibrate", "checkpoint=run", *told)
    assert Path("run/pretrained/plans.json").exists()


def sweep_guidance() -> None:
    told = ["weights=[1]", "grid_samples=4", "row_samples=2", *IMAGES, *FEW]
    tarflow("sweep-guidance", "checkpoint=run", *told)
    assert Path("run/guidance/guidance.png").exists()


def classify() -> None:
    tarflow("evaluate", "checkpoint=run", *LATENTS, "metrics=classification", "device=cpu")
    assert report("classification")["count"] == NUM_TEST


@pytest.mark.parametrize("command", [distill, calibrate, sweep_guidance, classify])
def test_other_commands_take_flows_of_latents(command: Callable[[], None]):
    command()


def test_latents_are_chosen_by_name():
    config = composed("train", *LATENTS, "noise=no_noise")
    assert config.data.data._target_ == "tarflow.data.latents"
    assert config.noise == {"_target_": "tarflow.NoNoise"}
