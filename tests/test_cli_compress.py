"""`tarflow compress`, and every other command with what it leaves."""

import json
from pathlib import Path

import pytest
import torch

from tarflow import GaussianNoise, NoNoise, Pixels, UniformDequantization, load
from tarflow.compression import Cost
from tests.models import tiny_flow
from tests.test_cli import error_of, tarflow

SIZES = {"num_layers": 1, "model_dim": 32, "num_classes": 10}
SMALL = ("data.data.validation_fraction=0.1", "num_images=150", "repetitions=1", "num_samples=4")


@pytest.fixture(autouse=True)
def flow(tmp_path, monkeypatch):
    """A flow of digits, in the current folder."""
    monkeypatch.chdir(tmp_path)
    flow = tiny_flow(8, 2, 1, codec=UniformDequantization(17), noise=NoNoise(), **SIZES)
    flow.save_pretrained("run/pretrained")
    return flow.eval()


def test_a_smaller_flow_and_a_report_are_left_and_all_commands_take_it(flow, capsys):
    tarflow("compress", "checkpoint=run", "tolerance=0.02", *SMALL)
    out = capsys.readouterr().out
    assert "calibrating" in out
    assert out.count("threshold ") > 3
    for text in ("bits/dim", "cache bytes", "samples per second", "neurons of network 2"):
        assert text in out
    small, report = (
        load("run/compressed/pretrained"),
        json.loads(Path("run/compressed/report.json").read_text()),
    )
    assert Cost.of(small).mlp_operations < Cost.of(flow).mlp_operations
    assert report["unit"] == "bits_per_dim"
    assert -0.02 < report["validation_rise"] <= 0.02
    assert report["cost"]["after"]["operations"] == Cost.of(small).operations
    assert report["cost"]["before"]["neurons"] == [[128], [128], [128]]
    assert max(report["deviation"].values()) < 1e-4
    tarflow("evaluate", "checkpoint=run/compressed", "baseline=run", "output=judged")
    compared = json.loads(Path("judged/comparison/report.json").read_text())
    found, expected = report["difference"], compared["bits_per_dim_difference"]
    assert found["mean"] == pytest.approx(expected["mean"], abs=1e-6)
    assert found["standard_error"] == pytest.approx(expected["standard_error"], rel=1e-3)
    short = ("batch_size=2", "repetitions=1", "windows=[2]")
    tarflow("calibrate", "checkpoint=run/compressed", *short)
    tarflow("sample", "checkpoint=run/compressed", "num_samples=2", "guidance=1.0")
    assert Path("run/compressed/samples/grid.png").is_file()


def test_training_goes_on_from_a_smaller_flow(capsys):
    tarflow("compress", "checkpoint=run", "tolerance=0.05", *SMALL)
    small = load("run/compressed/pretrained")
    steps = ("trainer.max_steps=2", "schedule.warmup_steps=1", "data.batch_size=8")
    short = ("optimizer.lr=1.0e-6", "callbacks.sample_grid.num_samples=4")
    tarflow("train", "checkpoint=run/compressed", "run_dir=tuned", *steps, *short)
    tuned = load("tuned/pretrained")
    assert tuned.description == small.description
    for name, tensor in tuned.state_dict().items():
        torch.testing.assert_close(tensor, small.state_dict()[name], rtol=0, atol=1e-4)
    origin = json.loads(Path("tuned/config.json").read_text())["origin"]
    assert origin.keys() == {"checkpoint"}


def test_one_kind_of_units_may_be_left_alone():
    alone = ("parts=[heads]", "output=heads", "tolerance=0.05")
    tarflow("compress", "checkpoint=run", *SMALL, *alone)
    assert load("heads/pretrained").description.hidden_dims is None


def test_errors_are_told_plainly():
    wanted = ("checkpoint=run", *SMALL)
    assert "tolerance -0.1 must be finite" in error_of("compress", *wanted, "tolerance=-0.1")
    assert "tolerance='abc': needed is float" in error_of("compress", *wanted, "tolerance=abc")
    assert "give neurons, heads" in error_of("compress", *wanted, "parts=[mlp]")
    assert "num_images 0" in error_of("compress", *wanted, "num_images=0")
    assert "repetitions 0" in error_of("compress", *wanted, "repetitions=0")
    assert "has no validation part" in error_of("compress", "checkpoint=run")
    assert "tell nothing of a layer" in error_of("compress", *wanted, "num_images=2")
    assert not Path("run/compressed/pretrained").exists()
    Path("there/pretrained").mkdir(parents=True)
    assert "is there already" in error_of("compress", *wanted, "output=there")
    tiny_flow(8, 2, 1, codec=Pixels(256), noise=GaussianNoise(), **SIZES).save_pretrained("other")
    assert "digits" in error_of("compress", "checkpoint=other", *SMALL)
    assert "neither a pretrained folder" in error_of("compress", "checkpoint=nothing", *SMALL)
