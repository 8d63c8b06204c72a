"""The study of compression: flows, smaller ones, times; a page with tables, claims and a plot."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from tarflow import ConfigurationError, Context
from tarflow.ablation.compression.compression_runs import CompressedRun
from tarflow.ablation.compression.compression_study import CompressionStudy
from tarflow.ablation.compression.compression_tables import ROWS, blocks, fill
from tarflow.ablation.compression.thresholds import at_share
from tarflow.ablation.marked_page import with_blocks
from tarflow.ablation.study import Study
from tarflow.cli import run_command
from tarflow.compression.cost import mlp_operations
from tarflow.compression.low_rank import low_rank
from tarflow.compression.magnitude import magnitudes
from tests.models import tiny_flow

ROOT = Path(__file__).parents[2]
DATA = "random_32"
SECONDS = 0.1


def study(directory, **changes):
    told = {"data": [DATA], "compressors": ["heads"], "seeds": [0]}
    told |= {"flow_seconds": SECONDS, "tuning_seconds": SECONDS, "repetitions": 1, "threads": 1}
    return CompressionStudy(directory, **{**told, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study whose runs this process has done, without starting others."""
    directory, threads = tmp_path_factory.mktemp("study"), torch.get_num_threads()
    here = study(directory)
    (directory / "runs").mkdir()
    for run in (*here.flows, *here.compressed, *here.tuned):
        Study(directory, [run]).path(run).write_text(json.dumps(run.do()))
    [times] = here.times  # whose settings hold hashes of the models
    Study(directory, [times]).path(times).write_text(json.dumps(times.do()))
    torch.set_num_threads(threads)
    return here


@pytest.mark.parametrize("share", [0.75, 0.3])
@pytest.mark.parametrize("kind", ["neurons", "ranks"])
def test_the_lowest_threshold_of_a_share_is_found(kind, share):
    flow = tiny_flow(num_transforms=2, num_layers=1)
    if kind == "neurons":
        skeletons = magnitudes(flow)
        make, thresholds = skeletons.at, skeletons.thresholds.tolist()
    else:
        make = partial(low_rank, flow)
        weights = [w for n, w in flow.state_dict().items() if ".mlp." in n and w.ndim == 2]
        spectra = [torch.linalg.svdvals(weight.double()) for weight in weights]
        thresholds = torch.cat(spectra).sort().values.tolist()
    counts = (mlp_operations(make(threshold)) for threshold in thresholds)
    expected = next(count for count in counts if count <= share * mlp_operations(flow))
    assert mlp_operations(at_share(flow, make, share)) == expected


def test_a_share_that_nothing_leaves_is_refused():
    flow = tiny_flow(num_transforms=2, num_layers=1)
    with pytest.raises(ConfigurationError, match=r"no threshold leaves 0\.001"):
        at_share(flow, magnitudes(flow).at, 0.001)


def test_the_study_measures_what_it_says(done):
    found = {result["settings"]["variant"]: result for result in done.results()}
    assert list(found) == ["flow", "heads_0.5", "flow_tuned", "heads_0.5_tuned"]
    flow, heads = found["flow"], found["heads_0.5"]
    assert flow["rise"] == {"mean": 0.0, "standard_error": 0.0}
    for name, result in found.items():
        rise = result["loss"] - flow["loss"]
        assert result["rise"]["mean"] == pytest.approx(rise, abs=1e-9)
        assert result["is_small"] == (rise <= 0.01)
        assert result["round_trip"] < 1e-3
        tuned = name.endswith("_tuned")
        assert ("steps" in result) == (name == "flow" or tuned)
        assert ("drawn" in result["per_second"]) == (not tuned)
    assert 0.45 < heads["mlp_operations"] / flow["mlp_operations"] <= 0.5
    less = flow["mlp_operations"] - heads["mlp_operations"]
    assert heads["operations"] <= flow["operations"] - less
    assert found["heads_0.5_tuned"]["rise"] != heads["rise"]


@pytest.mark.parametrize("name", ["magnitude", "low_rank"])
def test_smaller_flows_are_kept_or_made_again(done, name):
    [flow] = done.flows
    run = CompressedRun(done.directory, DATA, 0, 0.0, flow, name, 0.75)
    model, _ = run.fit()
    run.keep(model)
    assert (run.pretrained == flow.pretrained) == (name == "low_rank")
    x, label = torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
    assert torch.equal(run.model().log_prob(x, label), model.eval().log_prob(x, label))
    panels, _ = run.samplers()["drawn"].draw(range(2), Context(label))
    assert panels["samples"].shape == (2, 3, 32, 32)


def test_the_command_goes_on_with_what_is_there(done, tmp_path, capsys):
    runs = {path: path.stat().st_mtime_ns for path in (done.directory / "runs").iterdir()}
    given = [f"output={done.directory}", f"page={tmp_path}/page.md", f"datasets=[{DATA}]"]
    given += ["compressors=[heads]", "seeds=[0]", f"flow_seconds={SECONDS}"]
    given += [f"tuning_seconds={SECONDS}", "repetitions=1", "threads=1", "workers=1"]
    run_command("compare-compression", given)
    told = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    for path in (tmp_path / "page.md", tmp_path / "images/compression.png"):
        assert path.is_file()
        assert str(path) in told
    assert json.loads((done.directory / "results.json").read_text()) == done.results()
    assert "| decomposition, heads too, 0.5, tuned |" in told


def made_up(variant, seed, rise):
    """A result."""
    return {
        "settings": {"data": "digits", "variant": variant, "seed": seed},
        **{"loss": 2.0 + rise, "rise": {"mean": rise, "standard_error": 0.004}},
        **{"is_small": float(rise <= 0.01), "parameters": 12345, "operations": 2_000_000},
        **{"mlp_operations": 1_000_000, "cache_bytes": 3072, "per_second": {"drawn": 250.0}},
    }


RESULTS = [
    result
    for seed in (0, 1)
    for result in (
        made_up("flow", seed, 0.0),
        made_up("decomposition_0.5", seed, 0.008 + 0.004 * seed),
        made_up("magnitude_0.5", seed, 0.5 + 0.01 * seed),
        made_up("low_rank_0.5", seed, 0.1 * seed),
    )
]


def test_tables_have_what_was_measured_and_what_it_says_of_claims():
    found = blocks(RESULTS)
    table = found["digits"].splitlines()
    assert table[2] == "| uncompressed | 2 | 0 | 0.004 | 2 of 2 | 12,345 | 2.0 | 1.0 | 3 | 250 |"
    assert table[3].startswith("| decomposition, 0.5 | 2.01 ± 0.003 | 0.01 ± 0.003 | 0.004 | 1 of")
    assert len(table) == 6
    assert found["photographs_32"] == "Not measured."
    claims = found["claims"].splitlines()
    assert claims[2].startswith("| decomposition loses less than magnitude | holds (+0.4")
    assert claims[3].startswith("| decomposition loses less than truncated SVD | undecided (")
    assert claims[4].endswith(", both tuned | not measured |")


def test_a_page_keeps_its_words_and_gets_tables_and_a_plot(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- table: digits -->\nold\n<!-- end -->\n\nAfter.\n")
    assert fill(page, RESULTS) == [page, tmp_path / "images" / "compression.png"]
    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    fill(tmp_path / "new.md", [])
    text = (tmp_path / "new.md").read_text()
    assert all(f"<!-- table: {name} -->" in text for name in blocks([]))


def test_the_published_page_shows_the_published_results():
    page = (ROOT / "docs" / "compression.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "compression.json").read_text())
    found = {result["settings"]["variant"] for result in results}
    assert {variant for _, variant in ROWS} == found
    assert with_blocks(page, blocks(results)) == page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ["faces"]}, "datasets=.*choose among digits"),
        ({"compressors": ["magic"]}, "compressors=.*choose among decomposition"),
        ({"seeds": []}, "must name one"),
        ({"tuning_seconds": 0.0}, "tuning_seconds=0.0 must be positive"),
        ({"repetitions": 0}, "repetitions 0 must be at least 1"),
        ({"threads": 0}, "threads 0 must be at least 1"),
    ],
)
def test_wrong_choices_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        study(tmp_path, **options)
