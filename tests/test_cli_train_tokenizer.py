"""`tarflow train-tokenizer` and `tarflow tune-decoder`, as a user runs them."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tarflow import load
from tarflow.cli.settings import CONF
from tarflow.tokenizers import Autoencoder, IdentityTokenizer
from tests.composing import composed
from tests.models import tiny_flow
from tests.test_cli import error_of, tarflow
from tests.test_training.test_resume import assert_same

BOTTLENECKS = sorted(path.stem for path in (CONF / "model/bottleneck").iterdir())
DATA = [
    *("data=random", "data.data.image_size=8", "data.data.num_train=40", "data.data.num_test=4"),
    *("data.batch_size=8", "schedule.total_steps=9", "schedule.warmup_steps=1"),
    *("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "callbacks.throughput=null"),
    "callbacks.reconstruction_grid.num_images=4",
]
TINY = ["model.factor=2", "model.width=8", *DATA]
KEPT = ("state_dict", "averaging", "optimizer_states", "lr_schedulers", "global_step")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*arguments: str, run: str = "run", steps: int = 2) -> None:
    few = f"trainer.max_steps={steps}"
    tarflow("train-tokenizer", f"run_dir={run}", *TINY, few, *arguments)


def tune(*arguments: str, run: str = "tuned", steps: int = 2) -> None:
    few = f"trainer.max_steps={steps}"
    tarflow("tune-decoder", "checkpoint=run", f"run_dir={run}", *DATA, few, *arguments)


def refused(*arguments: str) -> str:
    return error_of("train-tokenizer", "run_dir=run", *TINY, "trainer.max_steps=3", *arguments)


def refused_to_tune(*arguments: str) -> str:
    few = "trainer.max_steps=3"
    return error_of("tune-decoder", "checkpoint=run", "run_dir=tuned", *DATA, few, *arguments)


def state(run: str) -> dict:
    left = torch.load(Path(run, "checkpoints/last.ckpt"), weights_only=True)
    return {name: left[name] for name in KEPT}


def columns(run: Path) -> set[str]:
    rows = (run / "logs/version_0/metrics.csv").read_text().splitlines()
    return set(next(csv.reader(rows)))


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_every_experiment_is_tried_in_two_steps(bottleneck, capsys):
    name = f"photographs_{bottleneck}"
    tarflow("train-tokenizer", f"experiment={name}", "trainer=smoke", "model.width=8")
    [run] = Path("outputs/smoke", name).iterdir()
    tokenizer = load(run / "pretrained")
    assert isinstance(tokenizer, Autoencoder)
    assert tokenizer.latent_shape[1:] == (8, 8)
    assert (run / "grids/step_0000002.png").exists()
    used = {"train/codes_in_use", "train/perplexity"} if tokenizer.num_codes else set()
    assert {"train/loss", "train/psnr", "perf/images_per_second", *used} <= columns(run)
    assert "perf/tokens_per_second" not in columns(run)  # convolutions read none
    assert "the trained model is in" in capsys.readouterr().out


def test_experiments_are_of_photographs_and_tell_how_to_run_them():
    for bottleneck in BOTTLENECKS:
        name = f"photographs_{bottleneck}"
        config = composed("train-tokenizer", f"experiment={name}")
        assert (config.name, config.data.data.size) == (name, 32)
        chosen = composed("train-tokenizer", f"model/bottleneck={bottleneck}").model.bottleneck
        assert config.model.bottleneck == chosen
        text = (CONF / "experiment" / f"{name}.yaml").read_text()
        assert f"# tarflow train-tokenizer experiment={name}\n" in text


def test_a_run_goes_on_bitwise_and_only_as_it_was(capsys):
    train(run="straight", steps=5)
    train(run="stopped", steps=2)
    train(run="stopped", steps=5)
    assert "going on from stopped/checkpoints/last.ckpt at step 2" in capsys.readouterr().out
    assert_same(state("stopped"), state("straight"))
    models = [load(f"{run}/pretrained").state_dict() for run in ("stopped", "straight")]
    assert_same(*models)
    assert not torch.equal(models[0]["scale"], torch.ones(4, 1, 1))
    train(run="run", steps=1)
    assert "model.width: 8 -> 16" in refused("model.width=16")
    assert "model.bottleneck" in refused("model/bottleneck=fsq")


def test_a_decoder_is_tuned_for_the_same_latents():
    train()
    tune("noise_std=0.4", run="straight", steps=3)
    tune("noise_std=0.4", steps=2)
    tune("noise_std=0.4", steps=3)
    assert_same(state("tuned"), state("straight"))
    before, tuned = load("run/pretrained"), load("tuned/pretrained")
    assert tuned.latents_sha256 == before.latents_sha256
    assert (tuned.decodes_noise, before.decodes_noise) == (0.4, 0.0)
    assert torch.equal(tuned.scale, before.scale)
    assert not torch.equal(tuned.decoder[0].weight, before.decoder[0].weight)
    assert (Path("tuned") / "pretrained" / "config.json").exists()
    kept = json.loads(Path("tuned/config.json").read_text())
    assert kept["origin"]["checkpoint"].keys() == {"config.json", "model.safetensors"}
    assert "noise_std: 0.4 -> 0.5" in refused_to_tune("noise_std=0.5")
    train(run="run", steps=3)
    message = refused_to_tune("noise_std=0.4", "trainer.max_steps=4")
    assert "origin.checkpoint.model.safetensors" in message


def test_smoke_tunes_in_two_small_steps():
    train()
    data = [each for each in DATA if each.startswith("data.data") or each == "data=random"]
    tarflow("tune-decoder", "checkpoint=run", "trainer=smoke", *data)
    [run] = Path("outputs/smoke/decoder").iterdir()
    assert load(run / "pretrained").decodes_noise == 0.3
    assert (run / "grids/step_0000002.png").exists()


def test_what_is_no_tokenizer_cannot_be_tuned():
    tiny_flow(8, 2, 1).save_pretrained("run")
    assert (
        "holds a TarFlow, which is not a Tokenizer: give the folder of a Tokenizer"
        in refused_to_tune()
    )
    IdentityTokenizer(8).save_pretrained("run")
    assert "a IdentityTokenizer has no decoder" in refused_to_tune()
    Autoencoder(16, factor=2, width=8).save_pretrained("run")
    assert "but run was made for (3, 16, 16)" in refused_to_tune()
    assert "noise_std 0.0 must be finite and positive" in refused_to_tune("noise_std=0.0")
    assert "checkpoint is needed" in error_of("tune-decoder", "run_dir=new")


def test_experiments_of_other_commands_are_refused_with_words():
    for command, experiment in (("train", "photographs_vq"), ("train-tokenizer", "imagenet64")):
        name = "imagenet64_likelihood" if experiment == "imagenet64" else experiment
        message = error_of(command, f"experiment={name}", "run_dir=run")
        assert f"In 'experiment/{name}'" in message or "photographs_kl" in message
        assert "It is an experiment of another command" in message


def test_what_does_not_fit_is_refused():
    message = refused("model._target_=tarflow.tokenizers.IdentityTokenizer")
    assert "is not a kind of Autoencoder" in message
    assert "trainer=ddp" in refused("trainer=fsdp2", "trainer.devices=1")
    assert "must be a multiple of the factor 16" in refused("model.factor=16")
    message = error_of("train-tokenizer", "module.checkpointed_layers=1")
    assert "checkpointed_layers" in message
