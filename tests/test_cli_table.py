"""A table through the commands: trained, resumed, evaluated, and samples as a table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tarflow as package
from tarflow import Categories, Integers, Interval, Real, VectorFlow
from tarflow.data import table
from tests.composing import composed
from tests.test_cli import error_of, tarflow

SMALL = [
    *("model.model_dim=16", "model.head_dim=8", "model.num_layers=1", "model.num_transforms=2"),
    *("data.batch_size=32", "trainer.log_every_n_steps=1", "schedule.warmup_steps=1"),
    "schedule.total_steps=4",
]
TABLE = ["data=table", "data.data.path=people.csv"]


def write_people(path: Path, count: int = 120) -> None:
    """Write a table with a column of each kind."""
    source = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "age", "city", "share"])
        for row in range(count):
            height, share = source.normal(1.7, 0.1), source.beta(2, 3)
            writer.writerow([f"{height:.5f}", row % 9, ["Bern", "Rome"][row % 2], f"{share:.5f}"])


def read(path: str) -> list[dict[str, str]]:
    """The rows of a file."""
    with Path(path).open() as file:
        return [*csv.DictReader(file)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a table and a run of four steps, of which the last two were resumed."""
    folder = tmp_path_factory.mktemp("tables")
    write_people(folder / "people.csv")
    share = "data.data.supports={share: {_target_: tarflow.Interval, low: 0, high: 1}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for steps in (2, 4):
            options = [share, f"trainer.max_steps={steps}", "trainer.val_check_interval=2"]
            tarflow("train", *TABLE, *SMALL, *options, "run_dir=run")
    return folder


@pytest.fixture(autouse=True)
def here(trained, monkeypatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


EVALUATED = [*TABLE, "data.data.supports={share: {_target_: tarflow.Interval, low: 0, high: 1}}"]


def test_a_run_keeps_columns_and_their_moments():
    flow = package.load("run/pretrained")
    assert isinstance(flow, VectorFlow)
    assert flow.codec.each == {
        "height": Real(),
        "age": Integers(),
        "city": Categories(["Bern", "Rome"]),
        "share": Interval(0, 1),
    }
    rows = table("people.csv").rows["train"]
    standardization = flow.transform[1]
    assert float(standardization.mean[0]) == pytest.approx(float(rows[:, 0].mean()), rel=1e-5)
    assert not list(Path("run").glob("grids/*"))


def test_a_run_logs_nats_and_goes_on(capsys):
    rows = read("run/logs/version_1/metrics.csv")
    assert {"val/nats_per_dim", "train/nats_per_dim"} <= rows[0].keys()
    assert [int(row["step"]) for row in rows if row["train/nats_per_dim"]] == [2, 3]
    tarflow("train", *EVALUATED, *SMALL, "trainer.max_steps=4", "run_dir=run")
    assert "is trained already: 4 steps" in capsys.readouterr().out


def test_the_model_with_the_likeliest_validation_part_is_kept():
    logs = [read(f"run/logs/version_{version}/metrics.csv") for version in (0, 1)]
    found = [
        float(row["val/nats_per_dim"]) for rows in logs for row in rows if row["val/nats_per_dim"]
    ]
    assert len(found) == 2
    flow = package.load("run/pretrained").eval()
    data = table("people.csv", supports={"share": Interval(0, 1)})
    with torch.no_grad():
        nats = -flow.log_prob(data.rows["val"]).mean() / 4
    assert float(nats) == pytest.approx(min(found), rel=1e-5)


def test_a_run_ends_where_nothing_gets_better(capsys):
    still = ["optimizer.lr=1e-30", "schedule.final_lr=0.0", "callbacks.export.patience=1"]
    options = ["trainer.max_steps=20", "trainer.val_check_interval=2", "run_dir=still"]
    tarflow("train", *TABLE, *SMALL, *still, *options, "schedule.total_steps=20")
    said = capsys.readouterr().out
    assert "1 validations before: training ends, and that model is kept" in said
    assert "goes on" not in said  # it is done
    assert "the trained model is in still/pretrained" in said


def test_without_a_validation_part_the_last_model_is_kept(capsys):
    options = ["data.data.validation_fraction=0.0", "trainer.max_steps=4", "run_dir=last"]
    tarflow("train", *TABLE, *SMALL, *options)
    assert "the trained model is in last/pretrained" in capsys.readouterr().out


def test_a_run_does_not_go_on_with_other_rows(trained):
    write_people(trained / "more.csv", 130)
    options = [*EVALUATED, *SMALL, "data.data.path=more.csv", "trainer.max_steps=6", "run_dir=run"]
    assert "are not those it was trained on" in error_of("train", *options)


def test_the_report_has_the_true_held_out_nats():
    tarflow("evaluate", "checkpoint=run", *EVALUATED, "output=report")
    report = json.loads(Path("report/report.json").read_text())
    flow = package.load("run/pretrained").eval()
    with torch.no_grad():
        log_prob = flow.log_prob(
            table("people.csv", supports={"share": Interval(0, 1)}).rows["test"]
        )
    error = float(log_prob.double().std()) / len(log_prob) ** 0.5
    assert report["count"] == 12
    assert report["log_likelihood"]["mean"] == pytest.approx(float(log_prob.mean()), rel=1e-5)
    assert report["log_likelihood"]["standard_error"] == pytest.approx(error, rel=1e-4)
    assert report["nats_per_dim"]["mean"] == pytest.approx(-float(log_prob.mean()) / 4, rel=1e-5)
    assert report["largest_round_trip_deviation"] < 1e-2
    assert report["non_finite"] == 0


def test_samples_are_a_table(capsys):
    tarflow("sample", "checkpoint=run", "num_samples=7", "output=samples", "batch_size=4")
    rows = read("samples/samples.csv")
    assert [*rows[0]] == ["height", "age", "city", "share"]
    assert len(rows) == 7
    assert {row["city"] for row in rows} <= {"Bern", "Rome"}
    assert all(int(row["age"]) >= 0 and 0 <= float(row["share"]) <= 1 for row in rows)
    assert len(Path("samples/certificates.csv").read_text().splitlines()) == 8
    assert "samples/samples.csv" in capsys.readouterr().out
    tarflow("sample", "checkpoint=run", "num_samples=7", "output=whole")
    for one, other in zip(rows, read("whole/samples.csv"), strict=True):
        assert (one["age"], one["city"]) == (other["age"], other["city"])
        for name in ("height", "share"):  # but for rounding, which batches of other sizes have
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-4)


@pytest.mark.parametrize("option", ["save_png=true", "save_npz=true", "data=digits"])
def test_rows_have_no_pictures(option):
    message = error_of("sample", "checkpoint=run", "num_samples=2", "output=pictures", option)
    assert "is for images, and this model draws rows" in message


WRONG = {
    ("noise=gaussian",): "is in units of pixels",
    ("model=tarflow",): "is not for the rows of",
    ("tokenizer=run",): "holds rows, and this is for images",
}


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_what_is_for_images_is_refused(options):
    message = error_of("train", *TABLE, *SMALL, *options, "trainer.max_steps=2", "run_dir=other")
    assert WRONG[options] in message


def test_a_model_of_rows_is_not_for_images():
    message = error_of("train", "model=vectors", "trainer.max_steps=2", "run_dir=other")
    assert "is not for the images of" in message
    assert "give model=tarflow" in message


def test_other_data_are_refused():
    assert "has the columns" in error_of(
        "evaluate", "checkpoint=run", *EVALUATED, "data.data.exclude=[city]"
    )
    assert "has codec" in error_of("evaluate", "checkpoint=run", "data=digits")
    message = error_of("evaluate", "checkpoint=run", *EVALUATED, "metrics=samples")
    assert "holds rows, and this is for images" in message


def test_names_of_data_sets_bring_what_suits_tables():
    config = composed("train", *TABLE)
    assert config.model["_target_"] == "tarflow.VectorFlow"
    assert config.noise["_target_"] == "tarflow.NoNoise"
    assert (config.optimizer["_target_"], config.optimizer.lr) == ("tarflow.training.muon", 5e-3)
    assert (config.trainer.max_steps, config.schedule.warmup_steps) == (3000, 20)
    maf = composed("train", "data=table_maf", "optimizer=adamw", "model/layer=modern")
    assert maf.model["_target_"] == "tarflow.VectorFlow"
    assert maf.model.layer == composed("train", "model=modern").model.layer
    assert maf.optimizer["_target_"] == "tarflow.training.adamw"
    images = composed("train")
    assert images.model["_target_"] == "tarflow.TarFlow"
    assert (images.optimizer["_target_"], images.trainer.max_steps) == (
        "tarflow.training.adamw",
        10000,
    )
    assert images.codec["_target_"] == "tarflow.UniformDequantization"


def test_two_small_steps_are_tried():
    tarflow("train", *TABLE, "trainer=smoke", "name=tried")
    [run] = Path("outputs/smoke/tried").iterdir()
    assert (run / "pretrained" / "config.json").exists()
