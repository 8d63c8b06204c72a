"""Benchmarks run from end to end, go on where they stopped, and the page shows what they found."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import run, sampling, session
from benchmarks.modes import Case
from benchmarks.page import SECTIONS, blocks, picture, read
from benchmarks.sampling_results import Results
from tarflow.ablation.marked_page import with_blocks
from tests.test_benchmarks import measurement

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def threads():
    """Benchmarks may set the number of threads of their process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_published_page_shows_the_published_results():
    page = ROOT / "docs" / "benchmarks.md"
    found = blocks(session.RESULTS)
    assert with_blocks(page.read_text(), found) == page.read_text()
    assert all(f"<!-- table: {name} -->" in page.read_text() for name in found)
    for kind in SECTIONS:
        for report in read(kind, session.RESULTS):
            assert report.path(session.RESULTS).is_file()
            assert (page.parent / "images" / picture(report)).is_file()


def test_a_quick_run_of_all_ways_to_sample_makes_a_page(tmp_path, capsys):
    wanted = ["--quick", "--device", "cpu", "--repeats", "1", "--output", str(tmp_path)]
    written = run.main([*wanted, "--only", "speed", "peers", "lengths"])
    [speed, peers, lengths] = (read(kind, tmp_path)[0] for kind in [*SECTIONS][:3])
    modes = ["baseline", "sequential", "windowed"]
    assert [each.mode for each in speed.measurements] == 2 * modes
    for each in speed.measurements:
        assert len(each.seconds) == 1
        assert 0 < each.floor_seconds < each.median
        assert each.rms <= each.maximum < 1e-2
        assert each.passes <= each.positions
    assert {*peers.families} >= {"plan", "windows", "GS-Jacobi", "selective Jacobi"}
    assert {(each.over, each.fixed) for each in lengths.exponents()} == {
        ("length", 1),
        ("batch_size", 16),
    }
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| RMS ≤ 0.1 |" in text
    assert text.count("Not measured.") == 1  # training
    assert written[0] == tmp_path / "benchmarks.md"
    assert all(path.stat().st_size < 300_000 for path in written)
    assert "…" not in capsys.readouterr().out
    before = {path: path.read_text() for path in tmp_path.glob("*.json")}
    run.main([*wanted, "--only", "lengths"])
    assert "T = 4, batch 1: measured before" in capsys.readouterr().out
    assert {path: path.read_text() for path in before} == before


class Stopped(Exception):
    """A run was."""


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    measured, fails = [], [2]

    def measure(results: Results, case: Case, device, tell) -> None:
        if case.batch_size in fails:
            raise Stopped
        measured.append(case.batch_size)
        results.measurements += [
            measurement(mode, [1.0], length=case.length, batch_size=case.batch_size)
            for mode in ("baseline", "sequential")
        ]

    given = ["--quick", "--device", "cpu", "--batch", "1", "2", "4", "--output", str(tmp_path)]
    options = sampling.read_options(given)
    with pytest.raises(Stopped):
        session.run(Results, options, sampling.make_cases, measure)
    fails.clear()
    found = session.run(Results, options, sampling.make_cases, measure)
    assert measured == [1, 2, 4]
    [path] = tmp_path.glob("sampling-*.json")
    assert len(json.loads(path.read_text())["measurements"]) == len(found.measurements) == 6
    monkeypatch.setattr("benchmarks.results.code", lambda: "other")
    session.run(Results, options, sampling.make_cases, measure)
    assert measured == [1, 2, 4, 1, 2, 4]
