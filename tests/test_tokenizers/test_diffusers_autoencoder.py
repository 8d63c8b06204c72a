"""Autoencoders of diffusers: read from its own folders, compared with itself, kept in flows."""

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from tarflow import CheckpointError, ConfigurationError, GaussianNoise, load
from tarflow.cli.convert import convert
from tarflow.tokenizers import DiffusersAutoencoder, KLConfig
from tests.models import randomized, tiny_flow

SIZES = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 3,
}
MEAN, STD = (0.1, -0.2, 0.3), (0.5, 2.0, 3.0)


@pytest.fixture(autouse=True)
def offline(monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def given(**options: Any) -> AutoencoderKL:
    """A tiny autoencoder with random weights, biases included."""
    return randomized(AutoencoderKL(**SIZES | options)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("given") / "vae"
    given().save_pretrained(directory)
    return directory


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 3, 8, 16), dtype=torch.uint8)


# What pipelines of diffusers 0.42 make of latents: Stable Diffusion; 3 and Flux; XL; XL where one
# of two is missing.
NORMALIZED = [
    ({}, lambda e, mean, std: e * 0.18215),
    ({"scaling_factor": 1.5, "shift_factor": 0.06}, lambda e, mean, std: (e - 0.06) * 1.5),
    (
        {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD},
        lambda e, mean, std: (e - mean) * 0.5 / std,
    ),
    ({"scaling_factor": 0.5, "latents_mean": MEAN}, lambda e, mean, std: e * 0.5),
]


@pytest.mark.parametrize(("options", "normalized"), NORMALIZED)
@torch.no_grad()
def test_it_encodes_and_decodes_as_diffusers_does(tmp_path, pixels, options, normalized):
    model = given(**options)
    model.save_pretrained(tmp_path)
    tokenizer = DiffusersAutoencoder.read(tmp_path, (8, 16))
    posterior = model.encode(2 * pixels.float() / 255 - 1).latent_dist
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    x = tokenizer.encode(pixels)
    assert tokenizer.latent_shape == x.shape[1:] == (3, 4, 8)
    torch.testing.assert_close(x, normalized(posterior.mode(), mean, std))
    torch.testing.assert_close(tokenizer.images(x), model.decode(posterior.mode()).sample)
    assert torch.equal(tokenizer.train().encode(pixels), x)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float16, {}),
        (torch.bfloat16, {}),
        (torch.float16, {"variant": "fp16"}),
        (torch.float32, {"max_shard_size": "20kB"}),
    ],
)
def test_every_way_to_write_the_weights_is_read_in_float32(tmp_path, dtype, options):
    model = given().to(dtype)
    model.save_pretrained(tmp_path / "vae", **options)
    assert len(list((tmp_path / "vae").iterdir())) > 2 or "max_shard_size" not in options
    (tmp_path / "model_index.json").write_text("{}")
    tokenizer = DiffusersAutoencoder.read(tmp_path, 8)
    expected = model.float().state_dict()
    for ours, theirs in (("encoder.0", "encoder"), ("encoder.1", "quant_conv")):
        part = tokenizer.get_submodule(ours).state_dict()
        assert all(torch.equal(v, expected[f"{theirs}.{k}"]) for k, v in part.items())


def test_all_that_decodes_alone_is_its_decoder(folder):
    tokenizer = DiffusersAutoencoder.read(folder, 8)
    before = tokenizer.latents_sha256
    x = torch.randn(1, *tokenizer.latent_shape)
    tokenizer.images(x).sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert (parameter.grad is not None) == name.startswith("decoder."), name
    randomized(tokenizer.decoder)
    assert tokenizer.latents_sha256 == before


def test_parts_that_are_left_out(tmp_path, pixels):
    given(use_quant_conv=False, use_post_quant_conv=False).save_pretrained(tmp_path)
    tokenizer = DiffusersAutoencoder.read(tmp_path, (8, 16))
    assert tokenizer.decode(tokenizer.encode(pixels)).shape == pixels.shape


def test_a_flow_keeps_it_and_needs_no_other_folder(tmp_path, folder, pixels):
    source = shutil.copytree(folder, tmp_path / "source")
    convert([str(source), str(tmp_path / "tokenizer"), "image_size=8x16"])
    tokenizer = load(tmp_path / "tokenizer")
    flow = tiny_flow((4, 8), 2, 3, codec=tokenizer, noise=GaussianNoise(0.1))
    x, shown = tokenizer.encode(pixels), tokenizer.decode(tokenizer.encode(pixels))
    flow.save_pretrained(tmp_path / "flow")
    for each in (source, tmp_path / "tokenizer"):
        shutil.rmtree(each)
    codec = load(tmp_path / "flow").codec
    assert torch.equal(codec.encode(pixels), x)
    assert torch.equal(codec.decode(x), shown)
    assert codec.latents_sha256 == tokenizer.latents_sha256


def edited(folder: Path, path: Path, **content: Any) -> Path:
    """A copy of a folder whose `config.json` says something else."""
    shutil.copytree(folder, path)
    found = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(found | content))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"_class_name": "VQModel"}, "holds a 'VQModel', which is not an AutoencoderKL"),
        ({"block_out_channels": [8, 32]}, "cannot be read: .*shape"),
        ({"use_quant_conv": False}, "quant_conv.* is missing, or not of"),
        ({"layers_per_block": 2}, "is missing, or not of an AutoencoderKL"),
        ({"down_block_types": ["Unknown"] * 2}, "cannot be read: .*Unknown"),
    ],
)
def test_another_model_is_refused(tmp_path, folder, content, message):
    with pytest.raises(CheckpointError, match=message):
        DiffusersAutoencoder.read(edited(folder, tmp_path / "edited", **content), 8)


def test_what_is_missing_or_damaged_is_told(tmp_path, folder):
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = broken / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        DiffusersAutoencoder.read(broken, 8)
    weights.rename(broken / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no file named .*safetensors"):
        DiffusersAutoencoder.read(broken, 8)
    (broken / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        DiffusersAutoencoder.read(broken, 8)
    with pytest.raises(CheckpointError, match="nowhere is not a folder of diffusers"):
        DiffusersAutoencoder.read(tmp_path / "nowhere", 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_channels": 1}, "out_channels 1 must be as many as in_channels 3"),
        ({"latents_mean": (0.0, 1.0)}, "latents_mean .* must have 4 values, as latent_channels"),
        ({"up_block_types": ()}, "up_block_types .* must have 1 values, as block_out_channels"),
        ({"scaling_factor": 0.0}, "must be finite and positive"),
    ],
)
def test_configurations_are_checked(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        KLConfig(**arguments)


def test_images_that_latents_do_not_tile_are_refused(folder):
    with pytest.raises(ConfigurationError, match=r"image_size \(8, 9\) must be divisible by 2"):
        DiffusersAutoencoder.read(folder, (8, 9))


def test_without_diffusers_it_is_told_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tarflow\[latents\]'"):
        DiffusersAutoencoder.read(folder, 8)


@pytest.mark.parametrize("options", [(), ("image_size=8", "noise_std=0.1")])
def test_the_command_asks_for_the_size_of_images_alone(folder, tmp_path, options):
    with pytest.raises(SystemExit) as caught:
        convert([str(folder), str(tmp_path / "out"), *options])
    assert "give image_size=256" in str(caught.value.code)
    assert not (tmp_path / "out").exists()
