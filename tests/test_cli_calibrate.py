"""`tarflow calibrate`, and `tarflow sample` with what it leaves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tarflow import GaussianNoise, Jacobi, PerTransform, Pixels, Sequential
from tarflow.sampling.plan import Plan, Trial, read_plans

from .models import tiny_flow
from .test_cli import error_of, tarflow


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A pretrained folder of a tiny flow."""
    monkeypatch.chdir(tmp_path)
    flow = tiny_flow(num_channels=1, num_classes=3, codec=Pixels(17), noise=GaussianNoise(0.3))
    flow.save_pretrained("run/pretrained")
    return tmp_path / "run" / "pretrained"


def test_a_plan_is_measured_shown_and_kept(checkpoint, capsys):
    tarflow("calibrate", "checkpoint=run", "batch_size=2", "guidance=1.0", "repetitions=1")
    out = capsys.readouterr().out
    for text in ("sequential", "window 3", "transform 2", "a batch takes", "plans.json"):
        assert text in out
    [plan] = read_plans(checkpoint)
    assert plan.conditions.batch_size == 2
    assert plan.conditions.weights
    assert "weight=1.0" in plan.conditions.guidance
    assert len(plan.measurements) == 6


def use_windows(checkpoint) -> None:
    """Pretend that windows were the fastest in every plan."""
    for plan in read_plans(checkpoint):
        windows = PerTransform((Jacobi(2, 1e-3), Sequential(), Jacobi(3, 1e-3)))
        Plan(plan.conditions, windows, 0.5, 1.0).save(checkpoint)


def test_sample_uses_a_plan_that_fits_and_says_so(checkpoint, capsys):
    tarflow("calibrate", "checkpoint=run", "batch_size=2", "guidance=1.0", "repetitions=1")
    use_windows(checkpoint)
    fitting = ("checkpoint=run", "batch_size=2", "guidance=1.0", "num_samples=4", "save_npz=true")
    tarflow("sample", *fitting, "output=planned")
    assert "by the calibrated plan: 2.00 x" in capsys.readouterr().out
    settings = json.loads(Path("planned/shards/settings.json").read_text())
    assert "Jacobi(window=2" in str(settings)
    tarflow("sample", *fitting, "output=exact", "decoder=sequential")
    assert "plan" not in capsys.readouterr().out
    tarflow("sample", *fitting, "output=windows", "decoder=jacobi", "window=2")
    assert "plan" not in capsys.readouterr().out
    images = [np.load(f"{name}/samples.npz")["images"] for name in ("planned", "exact", "windows")]
    for other in images[1:]:
        assert np.abs(images[0].astype(int) - other.astype(int)).max() <= 1


def test_a_precision_is_chosen_within_a_deviation(checkpoint, capsys):
    told = ("checkpoint=run", "batch_size=2", "repetitions=1", "windows=[2]")
    tarflow("calibrate", *told, "deviation=0.5")
    out = capsys.readouterr().out
    assert "samples that may deviate by 5.0e-01" in out
    assert "float32, transform 0: Sequential()" in out
    [plan] = read_plans(checkpoint)
    assert plan.accepted == 0.5
    assert plan.trials[0].precision == "float32"
    assert plan.deviation <= 0.5


def test_sample_uses_the_precision_of_a_plan_unless_told_otherwise(checkpoint, capsys):
    tarflow("calibrate", "checkpoint=run", "batch_size=2", "repetitions=1", "windows=[]")
    [plan] = read_plans(checkpoint)
    conditions = replace(plan.conditions, dtype="bfloat16_products")  # as if that was the fastest
    trial = Trial("bfloat16_products", plan.decoder, 0.25, 0.01)
    Plan(conditions, plan.decoder, 0.25, 1.0, (), 0.05, (trial,)).save(checkpoint)
    capsys.readouterr()
    fitting = ("checkpoint=run", "batch_size=2", "num_samples=4")

    def drawn(output: str, *more: str) -> tuple[str, dict, str]:
        tarflow("sample", *fitting, f"output={output}", *more)
        settings = json.loads(Path(output, "shards", "settings.json").read_text())
        rows = Path(output, "certificates.csv").read_text()
        return capsys.readouterr().out, settings, rows

    out, settings, rows = drawn("planned")
    told = (
        "in bfloat16_products: 4.00 x exact sequential, and off by 1.0e-02 (RMS; accepted: 0.05)"
    )
    assert told in out
    assert "'precision': 'bfloat16_products'" in str(settings)
    assert "dtype" not in str(settings)
    assert "nan" in rows
    assert "nan" not in drawn("certified", "certify=true")[2]
    out, settings, rows = drawn("exact", "dtype=float32")
    assert "2.00 x" not in out
    assert "products" not in out + str(settings)
    assert "nan" not in rows
    out, settings, rows = drawn("asked", "dtype=bfloat16_products")
    assert told in out
    assert "'precision': 'bfloat16_products'" in str(settings)
    assert "nan" not in rows
    out, settings, _ = drawn("other", "dtype=float16_weights")
    assert "float16_weights" in str(settings)
    assert "(the nearest plan is for dtype" in out


def test_sample_says_why_a_plan_does_not_fit(checkpoint, capsys):
    tarflow("calibrate", "checkpoint=run", "batch_size=2", "repetitions=1")
    tarflow("sample", "checkpoint=run", "batch_size=4", "num_samples=4")
    assert "(the nearest plan is for batch_size 2, not 4)" in capsys.readouterr().out
    flow = tiny_flow(
        num_channels=1, num_classes=3, codec=Pixels(17), noise=GaussianNoise(0.3), num_layers=1
    )
    flow.save_pretrained(checkpoint)
    tarflow("sample", "checkpoint=run", "batch_size=2", "num_samples=2", "output=other")
    assert "(the nearest plan is for weights" in capsys.readouterr().out


def test_errors_are_told_plainly(checkpoint):
    assert "batch_size 0" in error_of("calibrate", "checkpoint=run", "batch_size=0")
    assert "float32, bfloat16, float16" in error_of("calibrate", "checkpoint=run", "dtype=int8")
    both = ("deviation=0.1", "dtype=bfloat16")
    assert "give one" in error_of("calibrate", "checkpoint=run", *both)
    assert "deviation -1.0" in error_of("calibrate", "checkpoint=run", "deviation=-1.0")
    assert "tolerance" in error_of(
        "sample", "checkpoint=run", "decoder=jacobi", "tolerance=0.0", "num_samples=2"
    )
