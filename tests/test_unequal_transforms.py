"""Transforms of one flow that differ in patches, width, depth and heads: trained and decoded."""

import json

import pytest
import torch

import tarflow
from tarflow import ExampleSeeds, Jacobi, LinearGuidance, TarFlow
from tarflow.cli import run_command

from .models import tiny_flow

SIZES = {
    "patch_size": (2, 4, 2),
    "num_layers": (1, 2, 1),
    "model_dim": (16, 8, 24),
    "head_dim": (8, 4, 12),
}


@pytest.fixture
def unequal() -> TarFlow:
    """A flow over images of 8 x 8, of 16, 4 and 16 patches."""
    return tiny_flow(8, num_channels=1, num_classes=3, **SIZES).eval()


@pytest.mark.parametrize("decoder", [tarflow.Sequential(), Jacobi(window=5, tolerance=1e-5)])
@torch.no_grad()
def test_packed_transforms_decode_what_the_parallel_pass_encodes(unequal, decoder):
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 2, -1])
    z, _ = unequal(x, y)
    assert z.shape == (3, 16, 4)
    torch.testing.assert_close(unequal.inverse(z, y, decoder=decoder), x, rtol=0, atol=1e-4)
    precise, guided = unequal.double(), LinearGuidance(1.0)
    expected = precise.inverse(z.double(), y, guidance=guided)
    found = unequal.float().inverse(z, y, guidance=guided, decoder=decoder)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


def test_the_inverse_has_gradients_through_every_patch_size(unequal):
    z = torch.randn(2, 16, 4, dtype=torch.float64, requires_grad=True)
    unequal.double().inverse(z, torch.tensor([0, 1])).square().sum().backward()
    assert z.grad.abs().sum() > 0
    for name, parameter in unequal.named_parameters():
        assert parameter.grad is not None, name


def test_the_command_trains_saves_and_samples_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lists = [f"model.{name}={list(sizes)}".replace(" ", "") for name, sizes in SIZES.items()]
    options = ["trainer.max_steps=2", "schedule.warmup_steps=1", "run_dir=run"]
    grid = "callbacks.sample_grid.every_n_steps=2"
    run_command("train", [*options, "model.num_transforms=3", *lists, grid])
    content = json.loads((tmp_path / "run/pretrained/config.json").read_text())
    assert content["flow"]["patch_size"] == [2, 4, 2]
    run_command("sample", ["checkpoint=run", "num_samples=4"])
    assert (tmp_path / "run/samples/grid.png").is_file()
    flow = tarflow.load("run/pretrained")
    seeds = ExampleSeeds(0, range(2))
    assert torch.equal(flow.sample(2, source=seeds), flow.sample(2, source=seeds))
