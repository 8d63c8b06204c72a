"""`tarflow calibrate`, and `tarflow sample` with what it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from tarflow import GaussianNoise, Jacobi, PerTransform, Pixels, Sequential
from tarflow.sampling.plan import Plan, read_plans

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
    assert "tolerance" in error_of(
        "sample", "checkpoint=run", "decoder=jacobi", "tolerance=0.0", "num_samples=2"
    )
