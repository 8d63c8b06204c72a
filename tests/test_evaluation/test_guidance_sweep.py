"""`tarflow sweep-guidance`: against `evaluate` and `sample`, killed, gone on with, and shared."""

import csv
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from tarflow import GaussianGuidance, GaussianNoise, LinearGuidance, Pixels
from tarflow.cli import run_command
from tarflow.evaluation.guidance_sweep import Turn, turns_of
from tarflow.evaluation.samples import HELD_OUT
from tarflow.sampling import flow_sampler

from ..models import tiny_flow

SMALL = {
    "data": "digits",
    "metrics.num_samples": 12,
    "metrics.batch_size": 6,
    "metrics.seeds": "[0,1]",
    "metrics.num_reference": 60,
    "~metrics.extractors.inception": None,
}
FILES = ("report.json", "weights.csv", "guidance.png", "weights.png")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """The folder of a flow of digits with random weights."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("run") / "pretrained"
    sizes = {"num_transforms": 2, "num_layers": 1, "num_classes": 10}
    flow = tiny_flow(8, 4, 1, codec=Pixels(17), noise=GaussianNoise(0.3), **sizes)
    flow.save_pretrained(directory)
    return directory


@pytest.fixture
def sweep(pretrained, tmp_path, monkeypatch):
    """Calls the command on that folder."""
    monkeypatch.chdir(tmp_path)

    def call(*options: str, checkpoint: Path = pretrained, command: str = "sweep-guidance"):
        taken = {option.partition("=")[0] for option in options}
        small = [
            key if value is None else f"{key}={value}"
            for key, value in SMALL.items()
            if key not in taken
        ]
        run_command(command, [f"checkpoint={checkpoint}", *small, *options])

    return call


class Killed(Exception):
    pass


class Draws(list):
    """Seed and index of every sample that is drawn; whoever draws more than allowed dies."""

    allowed = 10**6


@pytest.fixture
def drawn(monkeypatch) -> Draws:
    draws, original = Draws(), flow_sampler.draw

    def counted(flow, indices, context, seed, *others):
        if len(draws) + len(indices) > draws.allowed:
            raise Killed
        draws.extend((seed, index) for index in indices)
        return original(flow, indices, context, seed, *others)

    monkeypatch.setattr(flow_sampler, "draw", counted)
    return draws


def report_of(folder: str) -> dict:
    return json.loads(Path(folder, "report.json").read_text())


def test_it_finds_what_evaluate_and_sample_do(sweep, capsys):
    sweep("weights=[2,0]", "output=out")
    told = capsys.readouterr().out
    assert all(Path("out", name).exists() and f"out/{name}" in told for name in FILES)
    scores = report_of("out")["samples"]
    assert list(scores) == ["no guidance", "linear 2", HELD_OUT]
    sweep("guidance=2.0", "metrics=samples", "output=evaluated", command="evaluate")
    expected = report_of("evaluated")["samples"]
    assert scores["no guidance"] == expected["no guidance, denoised"]
    assert scores["linear 2"] == expected["guidance 2, denoised"]
    assert scores[HELD_OUT] == expected[HELD_OUT]
    kept = Path("out/samples/linear_2_seed_1")
    options = ["num_samples=12", "batch_size=12", "seed=1", "guidance=2.0", f"output={kept}"]
    before = (kept / "grid.png").exists()
    run_command("sample", [f"checkpoint={pretrained_of('out')}", *options])
    assert not before  # the grid is of the first seed
    assert "12 of 12 samples certified" in capsys.readouterr().out  # and none was drawn again
    assert len(list((kept / "shards").glob("0*.npz"))) == 2


def pretrained_of(folder: str) -> str:
    return report_of(folder)["checkpoint"]


def test_pictures_and_table(sweep):
    sweep("weights=[0,1,2]", "rules=[linear,gaussian_ramp]", "output=out", "row_samples=4")
    with open("out/weights.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores, titles = report_of("out")["samples"], [f"{r['rule']} {r['weight']}" for r in rows]
    assert titles == [
        *(" 0.0", "linear 1.0", "linear 2.0", "gaussian ramp 1.0", "gaussian ramp 2.0"),
        f"{HELD_OUT} ",
    ]
    for row, found in zip(rows, scores.values(), strict=True):
        distance = found["pixels"]["frechet_distance"]
        assert float(row["pixels frechet_distance mean"]) == distance["mean"]
        assert float(row["accuracy mean"]) == found["accuracy"]["mean"]
    with Image.open("out/guidance.png") as picture, Image.open("out/weights.png") as plot:
        assert picture.height == 5 * 50 + 4 * 6 + 48
        assert plot.width > 1000
    for name in ("no_guidance", "linear_1", "gaussian_ramp_2"):
        assert Path(f"out/samples/{name}_seed_0/grid.png").exists()
    assert report_of("out")["guidance"]["gaussian ramp 1"] == (
        "GaussianGuidance(weight=1.0, temperature=1.0, schedule=LinearSchedule())"
    )


def test_a_killed_sweep_goes_on_and_draws_nothing_twice(sweep, drawn, capsys):
    drawn.allowed = 32
    with pytest.raises(SystemExit):
        sweep("weights=[0,1]", "output=out")
    assert len(drawn) == 30
    assert not Path("out/report.json").exists()
    drawn.allowed = 99
    sweep("weights=[0,1]", "output=out")
    assert "going on from 6 of 12" in capsys.readouterr().out
    assert len(drawn) == 4 * 12
    sweep("weights=[0,1]", "output=once")
    assert report_of("out") == report_of("once")
    for name in ("guidance.png", "weights.csv"):
        assert Path("out", name).read_bytes() == Path("once", name).read_bytes()


def test_weights_seeds_and_rules_are_added(sweep, drawn):
    sweep("weights=[0,1]", "output=out")
    kept = [*Path("out/samples").rglob("*.npz"), *Path("out/samples").rglob("scores.json")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    drawn.clear()
    sweep("weights=[0,1,3.5]", "output=out")
    assert len(drawn) == 2 * 12
    sweep("weights=[0,1]", "output=out", "metrics.seeds=[0,1,2]")
    assert set(drawn[24:]) == {(2, index) for index in range(12)}
    sweep("weights=[0,1]", "output=out", "guidance_rule=gaussian")
    assert len(drawn) == 4 * 12 + 2 * 12  # but no more without guidance
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert list(report_of("out")["samples"]) == ["no guidance", "gaussian 1", HELD_OUT]


def test_several_processes_draw_as_one(sweep, drawn, capsys):
    sweep("weights=[0,1]", "output=two", "rank=1", "world_size=2")
    assert "process 1 has drawn its share" in capsys.readouterr().out
    assert len(drawn) == 4 * 6  # the second of two batches
    sweep("weights=[0,1]", "output=two", "rank=0", "world_size=2")
    assert len(drawn) == 4 * 12
    sweep("weights=[0,1]", "output=one")
    assert report_of("two") == report_of("one")


def test_flows_without_classes_are_guided_by_the_temperature(sweep, tmp_path):
    flow = tiny_flow(8, 4, 1, codec=Pixels(17), noise=GaussianNoise(0.3), num_transforms=2)
    flow.save_pretrained(tmp_path / "plain")
    options = ("weights=[0,1]", "metrics.seeds=[0]", "output=out")
    with pytest.raises(SystemExit, match="attention temperature other than 1"):
        sweep(*options, checkpoint=tmp_path / "plain")
    assert not Path("out").exists()
    sweep(*options, "temperature=0.5", checkpoint=tmp_path / "plain")
    scores = report_of("out")["samples"]
    distances = [scores[name]["pixels"]["frechet_distance"]["mean"] for name in scores]
    assert len(set(distances)) == 3
    assert "accuracy" not in scores["linear 1"]
    with Image.open("out/weights.png") as plot:
        assert plot.width > 1000


def test_what_is_not_finite_is_counted_and_left_out(sweep, capsys):
    sweep("weights=[0,1e30]", "metrics.seeds=[0]", "output=out")
    scores = report_of("out")["samples"]["linear 1e+30"]
    assert scores["non_finite"]["mean"] == 12
    assert scores["pixels"]["frechet_distance"]["mean"] is None
    assert "linear 1e+30: 12 samples are not finite" in " ".join(capsys.readouterr().out.split())
    sweep("weights=[0,1e30]", "metrics.seeds=[0]", "output=out")  # and what is kept is read


def test_all_but_the_plot_is_there_without_matplotlib(sweep, monkeypatch, capsys):
    import_module("lightning")  # which itself imports what it finds of matplotlib
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    sweep("weights=[0,1]", "metrics.seeds=[0]", "output=out")
    assert "pictures need matplotlib: pip install 'tarflow[plots]'" in capsys.readouterr().out
    assert [Path("out", name).exists() for name in FILES] == [True, True, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["weights=[]"], "give one or more"),
        (["rules=[]"], "give one or more"),
        (["weights=[0,-1.0]"], "guidance weight -1.0 must be finite and not negative"),
        (["weights=[a]"], "weights=.'a'.: needed is list.float."),
        (["guidance=2.0"], "guidance=2.0 is one weight: give several"),
        (["rules=[linear,square]"], "square is not one of gaussian, gaussian_ramp, linear"),
        (["guidance_rule.depths=[2]"], "depth 2, but the flow has 2 autoregressive transforms"),
        (["guidance_rule.depths=[]"], "depths .* of guidance: give a list of one or more"),
        (["row_samples=0"], "row_samples 0 must be at least 1"),
        (["grid_samples=0"], "grid_samples 0 must be at least 1"),
        (["data=random", "data.data.image_size=4"], "but the flow was made for"),
    ],
)
def test_wrong_values_are_refused(sweep, drawn, options, message):
    with pytest.raises(SystemExit, match=message):
        sweep(*options, "output=out")
    assert not drawn
    assert not Path("out").exists()


def test_metrics_of_something_else_are_refused(pretrained, tmp_path):
    with pytest.raises(SystemExit, match="is not a SampleMetrics: give metrics=samples"):
        run_command("sweep-guidance", [f"checkpoint={pretrained}", "metrics=likelihood"])


def test_samples_of_other_settings_need_consent(sweep, drawn):
    options = ("weights=[0,1]", "metrics.seeds=[0]", "output=out")
    sweep(*options)
    drawn.clear()
    with pytest.raises(SystemExit, match=r"guidance: LinearGuidance.*depths=\(1,\)"):
        sweep(*options, "guidance_rule.depths=[1]")
    assert not drawn
    sweep(*options, "guidance_rule.depths=[1]", "overwrite=true")
    assert len(drawn) == 12


def test_turns_rise_and_no_guidance_comes_once():
    rules = {"a": LinearGuidance(1.0), "b": GaussianGuidance(1.0)}
    titles = [turn.title for turn in turns_of(rules, [2.0, 0.0, 0.25, 2.0])]
    assert titles == ["no guidance", "a 0.25", "a 2", "b 0.25", "b 2"]
    assert turns_of(rules, [0.0]) == [Turn()]
    assert turns_of({"a": rules["a"]}, [0.5]) == [Turn("a", LinearGuidance(0.5))]
