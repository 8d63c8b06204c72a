"""The published configurations: their models have the size that their headers tell."""

import re
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from tarflow.cli.settings import CONF
from tarflow.cli.train import make_flow
from tarflow.data import random_images
from tarflow.data.sources.afhq import AFHQ
from tarflow.data.sources.imagenet import IMAGENET
from tarflow.data.sources.imagenet64 import IMAGENET64
from tests.composing import composed

EXPERIMENTS = {
    "imagenet64_likelihood": IMAGENET64["old"],
    "imagenet64_unconditional": IMAGENET64["old"],
    "imagenet64_conditional": IMAGENET,
    "imagenet128": IMAGENET,
    "afhq256": AFHQ["v2"],
    "itarflow64": IMAGENET,
    "itarflow128": IMAGENET,
    "itarflow256": IMAGENET,
    "imagenet256_latent": IMAGENET,
}
LATENTS = {"imagenet256_latent": (4, 32)}
"""Channels and side of the latents of an experiment, which its autoencoder determines."""
EPOCHS = {
    "imagenet64_likelihood": 100,
    "imagenet64_unconditional": 200,
    "imagenet64_conditional": 200,
    "imagenet128": 320,
    "afhq256": 4000,
    "itarflow64": 300,
    "itarflow128": 450,
    "itarflow256": 600,
    "imagenet256_latent": 320,
}


def header(experiment: str) -> str:
    lines = (Path(CONF) / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


@pytest.fixture(params=EXPERIMENTS)
def experiment(request) -> str:
    return request.param


def test_the_model_has_as_many_parameters_as_the_header_tells(experiment):
    config = composed("train", f"experiment={experiment}")
    # What the data determines, without reading any; the data's own numbers are its edition's.
    channels, size = LATENTS.get(experiment, (3, config.data.data.get("image_size", 64)))
    classes = EXPERIMENTS[experiment].num_classes
    data = random_images(1, 1, size, channels, classes)
    with torch.device("meta"):
        flow = make_flow(config.model, config.codec, config.noise, data)
    assert flow.image_shape == (channels, size, size)
    assert flow.num_classes == classes
    count = sum(parameter.numel() for parameter in flow.parameters())
    assert f"# Parameters: {count:,}\n" in header(experiment) + "\n"


def test_steps_are_the_published_epochs_and_warm_up_is_one(experiment):
    config, edition = composed("train", f"experiment={experiment}"), EXPERIMENTS[experiment]
    num_train = sum(edition.counts["train"])
    batches = num_train // config.data.batch_size
    assert config.schedule.warmup_steps == batches
    assert config.trainer.max_steps == EPOCHS[experiment] * batches
    text = header(experiment)
    for number in (num_train, sum(edition.counts["test"]), EPOCHS[experiment], batches):
        assert re.search(rf"\b{number:,}\b", text), number


def test_the_header_tells_what_is_needed_to_run_it(experiment):
    text = header(experiment)
    for key in ("Data", "Hardware", "Train", "Expected", "Parameters"):
        assert f"# {key}: " in text
    assert f"experiment={experiment}" in text
    assert f"outputs/{experiment}/seed_0" in text
    assert EXPERIMENTS[experiment].name in text
    config = composed("train", f"experiment={experiment}")
    [command] = re.findall(r"tarflow prepare (.*)", text)
    chosen = dict(word.split("=") for word in command.split())
    assert chosen["output"] == config.data.data.root
    if experiment in LATENTS:  # another data set than what it is made of
        assert chosen["tokenizer"] == "TOKENIZER"
        return
    prepared = composed("train", f"data={chosen['data']}").data
    assert OmegaConf.to_container(prepared.data, resolve=True) == OmegaConf.to_container(
        config.data.data, resolve=True
    )


def test_settings_are_the_published_ones(experiment):
    config = composed("train", f"experiment={experiment}")
    assert config.name == experiment
    assert config.optimizer == {
        "_target_": "tarflow.training.adamw",
        "_partial_": True,
        "lr": 1e-4,
        "betas": [0.9, 0.95],
        "weight_decay": 1e-4,
    }
    assert config.schedule.final_lr == 1e-6
    assert config.module.max_grad_norm == 1.0
    assert list(config.callbacks.averaging.decays) == [0.9999]
    assert config.data.data.get("horizontal_flip") is (None if experiment in LATENTS else True)
    likelihood = experiment.endswith("likelihood")
    assert config.trainer.precision == ("32-true" if likelihood else "bf16-mixed")


def test_any_experiment_can_be_tried_with_random_bytes(experiment):
    config = composed("train", f"experiment={experiment}", "data=random")
    data = hydra.utils.instantiate(config.data.data)
    assert len(data.train) == 10_000
    assert config.data.batch_size in (256, 512, 768)
