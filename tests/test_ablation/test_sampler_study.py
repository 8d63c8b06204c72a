"""The study of samplers: flows, students of them, times, and a page with tables and a plot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tarflow import ConfigurationError, load
from tarflow.ablation.data_sets import data_of
from tarflow.ablation.marked_page import with_blocks
from tarflow.ablation.principal_components import PrincipalComponents
from tarflow.ablation.samplers.distilling import distil
from tarflow.ablation.samplers.methods import METHODS
from tarflow.ablation.samplers.sampler_runs import FlowRun, StudentRun
from tarflow.ablation.samplers.sampler_study import SamplerStudy
from tarflow.ablation.samplers.sampler_tables import blocks, fill, table
from tarflow.ablation.small_flow import make_flow
from tarflow.ablation.times_run import TimesRun
from tarflow.cli import run_command
from tarflow.data.loading.batches import read_batch

ROOT = Path(__file__).parents[2]
SCORES = ("frechet_distance", "kernel_distance", "precision", "recall", "accuracy")
SECONDS = 0.2


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of their process, which is that of all tests here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def study(directory, **changes):
    told = {"data": ["digits"], "methods": ["inverse", "plain"], "seeds": [0]}
    told |= {"flow_seconds": SECONDS, "seconds": SECONDS, "num_samples": 8, "guidance": 1.0}
    return SamplerStudy.of(directory, **{**told, "repetitions": 1, "threads": 1, **changes})


def test_settings_are_those_of_a_file_and_tell_methods_apart():
    texts = []
    for method in METHODS.values():
        assert json.loads(json.dumps(method.settings)) == method.settings
        texts.append(json.dumps(method.settings))
    assert len(set(texts)) == len(METHODS)
    assert METHODS["plain"].settings["stages"][0]["options"] == {"coupling": "IndependentCoupling"}


def test_every_method_fits_a_student_in_its_time():
    data = data_of("digits")
    flow = make_flow(data).eval()
    for method in METHODS.values():
        small = {"model_dim": 16, "head_dim": 8, "num_layers": 1}
        tiny = replace(method, sizes={**method.sizes, **small}, batch_size=8)
        found = distil(tiny, flow, data, SECONDS, seed=0)
        assert found.steps >= len(method.stages)
        assert found.skipped == 0
        assert found.seconds >= SECONDS * 0.9
        assert not found.student.training
        assert found.student.sample(2, 3).shape == (2, 1, 8, 8)


def test_runs_fit_keep_judge_and_time(tmp_path):
    flow = FlowRun(tmp_path, "digits", 0, SECONDS, 8, 1.0)
    student = StudentRun(tmp_path, "digits", 0, SECONDS, 8, 1.0, "inverse_guided", flow)
    results = [run.do() for run in (flow, student)]
    for run, result in zip((flow, student), results, strict=True):
        assert result["settings"] == run.settings
        json.dumps(result["settings"])
        assert load(run.pretrained) is not None
        assert result["real"].keys() >= set(SCORES)
        for scores in result["samples"].values():
            assert scores.keys() == {*SCORES, "non_finite"}
    assert list(results[0]["samples"]) == [
        f"{g}, {d}" for g in ("guidance 1", "no guidance") for d in ("denoised", "not denoised")
    ]
    assert list(results[1]["samples"]) == ["guidance 1, 1 pass", "no guidance, 1 pass"]
    assert results[1]["training"]["in_all"] == results[1]["training"]["own"] + SECONDS
    times = TimesRun("digits", (flow, student), 1, 1).do()
    for run, result in zip((flow, student), results, strict=True):
        found = times["milliseconds"][run.name]
        assert found.keys() == result["samples"].keys()
        for each in found.values():
            assert each.keys() == {"batch_1", "batch_64"}
            assert min(each.values()) > 0


def made_up(method, ways, seed, distance):
    """A result."""
    settings = {"data": "digits", "variant": method, "seed": seed}
    samples = {way: dict.fromkeys(SCORES, distance) for way in ways}
    times = {way: {"batch_1": 4.0, "batch_64": 0.5} for way in ways}
    training = {"own": 120.0, "in_all": 300.0}
    real = dict.fromkeys(SCORES, 0.25)
    told = {"samples": samples, "milliseconds": times, "training": training, "real": real}
    return {"settings": settings, **told}


EXACT = ("guidance 1, denoised", "no guidance, denoised", "no guidance, not denoised")
RESULTS = [
    made_up(method, ways, seed, distance + seed)
    for seed in (0, 1)
    for method, ways, distance in (
        (
            "flow",
            ("guidance 1, denoised", "no guidance, denoised", "no guidance, not denoised"),
            2,
        ),
        ("inverse", ("no guidance, 1 pass",), 3.0),
        ("plain", ("no guidance, 1 pass", "no guidance, 2 passes"), 5.0),
    )
]


def test_a_table_has_every_way_to_draw():
    lines = table(RESULTS, "digits", guided=False).splitlines()
    assert lines[0].endswith(
        "ms, 1 at a time | ms, 64 at a time | training, s | with the flow, s |"
    )
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| exact, not denoised",
        "| exact, denoised",
        "| learned inverse, 1 pass",
        "| flow matching without a flow, 1 pass",
        "| flow matching without a flow, 2 passes",
        "| real held-out images",
    ]
    assert "| 3.5 ± 0.7 |" in lines[4]
    assert lines[4].endswith("| 4 | 0.5 | 120 | 300 |")
    assert lines[-1].endswith("| 0.25 | 0.25 | 0.25 | 0.25 | 0.25 |  |  |  |  |")
    [row, _] = table(RESULTS, "digits", guided=True).splitlines()[2:]
    assert row.startswith("| exact, denoised | 2.5")
    assert table(RESULTS, "photographs", guided=True) == "Not measured."


def test_a_page_keeps_its_words_and_gets_tables_and_a_plot(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- table: digits -->\nold\n<!-- end -->\n\nAfter.\n")
    written = fill(page, RESULTS)
    assert written == [page, tmp_path / "images" / "few_passes.png"]
    assert written[1].stat().st_size
    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert "| learned inverse, 1 pass | 3.5 ± 0.7 |" in text
    fill(tmp_path / "new.md", RESULTS)
    text = (tmp_path / "new.md").read_text()
    assert all(f"<!-- table: {name} -->" in text for name in blocks(RESULTS))
    assert "![Quality against time](images/few_passes.png)" in text


def test_the_published_page_shows_the_published_results():
    page = (ROOT / "docs" / "few-passes.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "samplers.json").read_text())
    assert {result["settings"]["variant"] for result in results} == {"flow", *METHODS}
    assert with_blocks(page, blocks(results)) == page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["magic"]}, "methods=.*choose among inverse"),
        ({"data": ["faces"]}, "datasets=.*choose among digits"),
        ({"seeds": []}, "must name one"),
        ({"seconds": 0.0}, "seconds=0.0 and guidance=1.0 must be positive"),
        ({"num_samples": 3}, "num_samples 3 must be at least 4"),
        ({"repetitions": 0}, "repetitions 0 must be at least 1"),
        ({"threads": 0}, "threads 0 must be at least 1"),
    ],
)
def test_wrong_choices_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        study(tmp_path, **options)


@pytest.mark.parametrize("count", [100, 40])
def test_principal_components_are_coordinates_along_the_axes(count):
    data = data_of("digits")
    train = read_batch(data.train, range(count)).x
    found = PrincipalComponents.of(train, 5)(train, data.codec)
    pixels = train.flatten(1).double() / 16
    values = torch.linalg.eigvalsh(pixels.T.cov())
    assert found.shape == (count, 5)
    assert torch.allclose(found.mean(dim=0), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found.T.cov(), torch.diag(values[-5:]), atol=1e-10)


def test_the_command_leaves_runs_a_page_and_a_plot_and_goes_on(tmp_path, capsys):
    given = [f"output={tmp_path}", "workers=1", "datasets=[digits]", "methods=[inverse]"]
    given += ["flow_seconds=0.2", "seconds=0.2", "num_samples=8", "repetitions=1", "threads=1"]
    run_command("compare-samplers", [*given, "seeds=[0]"])
    told = capsys.readouterr().out
    for name in ("few-passes.md", "images/few_passes.png", "results.json"):
        assert (tmp_path / name).is_file()
        assert str(tmp_path / name) in told
    assert "| learned inverse, 1 pass |" in told
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert {path.stem for path in runs} == {"digits-flow-0", "digits-inverse-0", "digits-times"}
    (tmp_path / "few-passes.md").unlink()
    run_command("compare-samplers", [*given, "seeds=[0]"])
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    assert "| learned inverse, 1 pass |" in (tmp_path / "few-passes.md").read_text()
