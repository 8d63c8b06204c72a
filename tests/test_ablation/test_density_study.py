"""The study of densities: data in three parts, methods, runs, and a page with tables."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from tarflow import ConfigurationError
from tarflow.ablation.densities.density_data import (
    PLANAR,
    PLANAR_ROWS,
    DensityData,
    density_data,
    of_table,
    split,
)
from tarflow.ablation.densities.density_methods import METHODS, FittedDensity
from tarflow.ablation.densities.density_plot import draw
from tarflow.ablation.densities.density_runs import (
    SIDE,
    DensityRun,
    difference,
    grid,
    log_prob_of_points,
    measured,
)
from tarflow.ablation.densities.density_study import DensityStudy
from tarflow.ablation.densities.density_tables import blocks, fill
from tarflow.ablation.densities.flow_settings import PLANE, TABLE
from tarflow.ablation.densities.particle_tables import (
    FITTED,
    PARTICLES_PICTURE,
    draw_particles,
    particle_blocks,
)
from tarflow.ablation.densities.table_sources import TABLES, Table
from tarflow.ablation.marked_page import with_blocks
from tarflow.ablation.study import Study
from tarflow.cli import run_command

ROOT = Path(__file__).parents[2]
SECONDS = 0.2


def small_data(num: int = 90, dim: int = 3) -> DensityData:
    """A normal table, correlated."""
    random = np.random.default_rng(0)
    values = random.normal(size=(num, dim)) @ random.normal(size=(dim, dim)) + 5
    columns = tuple(f"column {index}" for index in range(dim))
    return of_table("small", Table(values, columns, np.zeros(dim), None))


@pytest.mark.parametrize("name", TABLES)
def test_parts_of_a_table_are_fixed_and_share_no_row(name):
    table = TABLES[name]()
    parts = split(table)
    assert sorted(np.concatenate(parts)) == list(range(len(table.values)))
    assert all(np.array_equal(*pair) for pair in zip(parts, split(table), strict=True))
    shares = [len(part) / len(table.values) for part in parts]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.01)
    if table.labels is not None:
        whole = np.bincount(table.labels) / len(table.labels)
        for part in parts:
            assert np.bincount(table.labels[part]) / len(part) == pytest.approx(whole, abs=0.02)


def test_training_rows_alone_standardize_and_choose_columns():
    values = np.random.default_rng(0).normal(3, 2, size=(50, 3))
    values[:, 1] = 7
    table = Table(values, ("a", "b", "c"), np.zeros(3), None)
    train, _, test = split(table)
    values[test, 1] = 8  # what varies in test rows alone does not vary
    values[test, 0] += 100
    data = of_table("mine", table)
    assert data.left_out == ("b",)
    kept = values[train][:, [0, 2]]
    assert data.mean.numpy() == pytest.approx(kept.mean(axis=0))
    assert data.std.numpy() == pytest.approx(kept.std(axis=0))
    assert data.original(data.test).numpy() == pytest.approx(values[test][:, [0, 2]])


def test_values_get_one_place_in_their_cells():
    table = TABLES["iris"]()
    assert table.cells == pytest.approx(np.full(4, 0.1))
    first, again = (of_table("iris", table) for _ in range(2))
    assert torch.equal(first.train, again.train)
    inside = first.original(first.train).numpy() - table.values[split(table)[0]]
    assert 0 <= inside.min() < 0.01
    assert 0.09 < inside.max() <= 0.1


def test_no_column_has_a_value_that_many_rows_share():
    for name in TABLES:
        data = density_data(name)
        x = torch.cat([data.train, data.validation, data.test])
        assert all(len(column.unique()) > 0.98 * len(x) for column in x.T), name
    left_out = tuple(f"pixel_{place}" for place in ("0_0", "3_0", "4_0", "4_7"))
    assert density_data("digits").left_out == left_out
    assert set(density_data("diabetes").left_out) == {"sex", "s4"}


def test_the_gaussian_is_that_of_scipy():
    data = small_data()
    fitted = METHODS["gaussian"].fit(data, 0, SECONDS)
    share, x = fitted.told["chosen"]["shrinkage"], data.train.numpy()
    covariance = (1 - share) * np.cov(x.T, bias=True) + share * np.eye(3)
    expected = scipy.stats.multivariate_normal(x.mean(axis=0), covariance)
    assert fitted.log_prob(data.test).numpy() == pytest.approx(expected.logpdf(data.test.numpy()))
    assert fitted.told["validation"] == pytest.approx(-expected.logpdf(data.validation).mean())
    assert fitted.told["parameters"] == 9


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_density_of_rows(name):
    data = small_data(dim=2)
    fitted = METHODS[name].fit(data, 0, SECONDS)
    side = torch.linspace(-12, 12, 241, dtype=torch.float64)
    log_prob = fitted.log_prob(torch.cartesian_prod(side, side))
    assert log_prob.dtype == torch.float64
    assert float(log_prob.exp().sum()) * 0.1**2 == pytest.approx(1, abs=0.03)
    held = -float(fitted.log_prob(data.validation).mean())
    assert fitted.told["validation"] == pytest.approx(held, abs=1e-4)
    assert json.loads(json.dumps(METHODS[name].recipe("iris"))) == METHODS[name].recipe("iris")


def test_settings_share_the_time_and_the_best_is_kept():
    told = METHODS["tarflow"].fit(small_data(), 0, SECONDS).told
    assert len(told["losses"]) == len(TABLE["tarflow"]) + 1
    assert told["validation"] == min(told["losses"])
    assert SECONDS <= told["seconds"] < 5 * SECONDS
    assert told["chosen"] in METHODS["tarflow"].recipe("iris")["tried"]
    for settings in (PLANE, TABLE):
        assert len({len(tried) for tried in settings.values()}) == 1


@pytest.mark.parametrize("name", PLANAR)
def test_the_divergence_of_the_truth_from_itself_is_0(name):
    data = density_data(name)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [*PLANAR_ROWS]
    truth = FittedDensity(lambda x: data.truth.log_prob(data.original(x)) + data.log_scale, {})
    found = measured(data, truth.log_prob(data.test).numpy())["divergence"]
    assert found["mean"] == pytest.approx(0, abs=1e-9)
    points = grid(data)
    area = float((points[-1] - points[0]).prod()) / (SIDE - 1) ** 2
    density = log_prob_of_points(truth, data, points).exp()
    assert float(density.sum()) * area == pytest.approx(1, abs=0.02)
    assert float(points[1, 0]) > float(points[0, 0])  # along a line first
    assert float(points[1, 1]) == float(points[0, 1])


def test_the_divergence_of_a_normal_density_from_another(monkeypatch):
    data = small_data(dim=2)
    normal = torch.distributions.Normal(0.0, 1.0)
    monkeypatch.setitem(PLANAR, "small", PLANAR["normal_mixture"].__class__(1, 1.0, 0.5))
    truth = data.truth
    x = data.original(data.test)
    rows = normal.log_prob(x).sum(dim=1) + data.log_scale
    expected = (truth.log_prob(x) - normal.log_prob(x).sum(dim=1)).mean()
    assert measured(data, rows.numpy())["divergence"]["mean"] == pytest.approx(float(expected))


def study(directory, **changes):
    told = {"data": ["moons", "iris"], "methods": ["gaussian", "neural_spline"], "seeds": [0]}
    return DensityStudy(
        directory, **{**told, "seconds": SECONDS, "plane_seconds": SECONDS, **changes}
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study whose runs this process has done, without starting others."""
    directory, threads = tmp_path_factory.mktemp("study"), torch.get_num_threads()
    here = study(directory)
    (directory / "runs").mkdir()
    for run in here.runs:
        Study(directory, [run]).path(run).write_text(json.dumps(run.do()))
    torch.set_num_threads(threads)
    return here


def test_the_study_measures_what_it_says(done):
    found = {(r["settings"]["data"], r["settings"]["variant"]): r for r in done.results()}
    assert list(found) == [(data, name) for data in done.data for name in done.methods]
    for (data, name), result in found.items():
        assert ("divergence" in result) == (data == "moons")
        expected = result["log_likelihood"]["mean"]
        rival = found[data, "neural_spline"]["log_likelihood"]["mean"]
        assert result["difference"]["mean"] == pytest.approx(expected - rival, abs=1e-5)
        rows = np.load(DensityRun(done.directory, data, name, 0, SECONDS).arrays)["rows"]
        error = rows.std(ddof=1) / math.sqrt(len(rows))
        assert result["log_likelihood"]["standard_error"] == pytest.approx(error, rel=1e-4)
    gap = found["moons", "gaussian"]["divergence"]["mean"]
    assert 0.2 < gap < 2
    assert difference(np.ones(4), np.zeros(4)) == {"mean": 1.0, "standard_error": 0.0}


def test_the_command_goes_on_with_what_is_there(done, tmp_path, capsys):
    runs = {path: path.stat().st_mtime_ns for path in (done.directory / "runs").iterdir()}
    given = [f"output={done.directory}", f"page={tmp_path}/page.md", "datasets=[moons,iris]"]
    given += [
        "methods=[gaussian,neural_spline]",
        "seeds=[0]",
        f"seconds={SECONDS}",
        f"plane_seconds={SECONDS}",
    ]
    given += ["systems=[]", "workers=1"]
    run_command("compare-densities", given)
    told = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    for path in (tmp_path / "page.md", tmp_path / "images/densities.png"):
        assert path.is_file()
        assert str(path) in told
    assert json.loads((done.directory / "results.json").read_text()) == done.results()
    assert "| neural spline |" in told


def made_up(data, method, seed, value):
    """A result."""
    told = {"mean": value, "standard_error": 0.01}
    path = "divergence" if data in PLANAR else "difference"
    return {
        "settings": {"data": data, "variant": method, "seed": seed, "seconds": 1.0},
        **{"log_likelihood": told, path: told, "parameters": 12345, "steps": 100},
    }


RESULTS = [
    result
    for seed in (0, 1)
    for result in (
        made_up("moons", "tarflow", seed, 0.01 + 0.01 * seed),
        made_up("checkerboard", "tarflow", seed, 0.06),
        made_up("wine", "neural_spline", seed, 0.0),
        made_up("wine", "tarflow", seed, -0.005),
        made_up("digits", "tarflow", seed, -0.5),
    )
]


def test_tables_have_what_was_measured_and_whether_targets_are_reached():
    found = blocks(RESULTS)
    assert found["divergence"].splitlines()[0] == "|  | moons | checkerboard |"
    assert found["divergence"].splitlines()[2] == "| TarFlow | 0.015 ± 0.007 | 0.06 |"
    assert found["difference"].splitlines()[2:] == [
        "| neural spline | 0.000 ± 0.01 |  |",
        "| TarFlow | -0.005 ± 0.01 | -0.500 ± 0.01 |",
    ]
    targets = [line.split(" | ")[-1] for line in found["targets"].splitlines()[2:]]
    assert targets == ["reached |", "**missed** |", "reached |", "**missed** |"]
    assert found["parameters"].splitlines()[-1].count("12,345") == 4
    assert set(blocks([]).values()) == {"Not measured."}


def of_particles(data, variant, seed, share):
    """A result of particles."""
    parts = ("truth", "flow", "weighted", "annealed")
    return {
        "settings": {"data": data, "variant": variant, "seed": seed},
        "effective_sample_size": share,
        "covered": 0.5,
        "annealed": {"effective_sample_size": 0.9, "stages": 3},
        "gaps": dict.fromkeys(parts, 0.01),
        "energies": dict.fromkeys(parts, -20.0),
        "truth": {"energy": -21.0},
        "seconds": 60.0,
        "histograms": {part: [0.01] * 100 for part in parts},
    }


def test_particles_have_tables_of_their_own_and_a_picture(tmp_path):
    results = [of_particles("DW-4", "samples", seed, 0.6 + 0.2 * seed) for seed in (0, 1)]
    results += [of_particles("DW-4", "energy", 0, 0.4), of_particles("LJ-13", "samples", 0, 0.1)]
    found = blocks([*RESULTS, *results])
    assert found["divergence"] == blocks(RESULTS)["divergence"]
    rows = [line.split(" | ") for line in found["particles"].splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["| DW-4", "samples of the chains", "0.7 ± 0.1"],
        ["| DW-4", "the energy alone", "0.4"],
        ["| LJ-13", "samples of the chains", "0.1"],
    ]
    targets = [line.split(" | ")[-1] for line in found["particle_targets"].splitlines()[2:]]
    assert targets == ["reached |", "**missed** |"]
    assert set(particle_blocks(RESULTS).values()) == {"Not measured."}
    assert draw_particles(tmp_path / "no.png", RESULTS) is None
    assert fill(tmp_path / "page.md", results, tmp_path) == [
        tmp_path / "page.md",
        tmp_path / "images" / PARTICLES_PICTURE,
    ]


def test_a_page_keeps_its_words_and_gets_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- table: targets -->\nold\n<!-- end -->\n\nAfter.\n")
    tables = [each for each in RESULTS if each["settings"]["data"] not in PLANAR]
    assert fill(page, tables, tmp_path) == [page]
    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert draw(tmp_path / "no.png", [], tmp_path) is None
    fill(tmp_path / "new.md", [], tmp_path)
    text = (tmp_path / "new.md").read_text()
    assert all(f"<!-- table: {name} -->" in text for name in blocks([]))


def test_the_published_page_shows_the_published_results():
    page = (ROOT / "docs" / "densities.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results" / "densities.json").read_text())
    assert {result["settings"]["variant"] for result in results} == {*METHODS, *FITTED}
    assert with_blocks(page, blocks(results)) == page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ["faces"]}, "datasets=.*choose among moons"),
        ({"methods": ["magic"]}, "methods=.*choose among gaussian"),
        ({"systems": ["DW-5"]}, "systems=.*choose among DW-4"),
        ({"seeds": []}, "must name one"),
        ({"seconds": 0.0}, r"seconds=0\.0 and .* must be positive"),
    ],
)
def test_wrong_choices_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        study(tmp_path, **options)
