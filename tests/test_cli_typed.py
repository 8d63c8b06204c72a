"""Values as people type them."""

from pathlib import Path

import pytest

from tarflow import GaussianNoise, Pixels
from tarflow.cli import run_command
from tarflow.cli.prepare import PrepareSettings
from tarflow.cli.typed import as_typed

from .models import tiny_flow
from .test_cli import error_of, tarflow

NAMES = [
    *("fotos_españa", "photos (1)", "x [v2]", "[v2]", "lr=0.001", "a,b", "2024", "1e5", "true"),
    *("Bob's", 'say "so"', "a#b & c!", "日本", "{a}", "{a: 1}", "range(1,3)", "a;b", "1_000"),
    *("x,[y", "100%", "f(x)", "+5", " spaces ", "back\\slash (1)"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def seen(monkeypatch) -> list:
    """The settings that `tarflow prepare` is called with."""
    seen = []

    def prepare(config: PrepareSettings) -> None:
        seen.append(config)

    monkeypatch.setattr("tarflow.cli.prepare.prepare", prepare)
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_any_name(seen, name):
    run_command("prepare", ["data=folder", f"data.data.root={name}", f"output=/tmp/{name}/new"])
    [config] = seen
    assert config.output == f"/tmp/{name}/new"
    assert config.data.data.root == config.composed["data"]["data"]["root"] == name


def test_the_home_folder(seen, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    folder = Path("conf/data")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "data:\n  _target_: tarflow.data.image_folder\n  root: ~/x\n"
    )
    run_command("prepare", ["--config-dir", "conf", "data=mine", "output=~", "+a=[~/b (1),c]"])
    config = seen.pop()
    assert config.output == str(tmp_path / "my home")
    assert config.data.data.root == f"{config.output}/x"
    assert config.composed["a"] == [f"{config.output}/b (1)", "c"]


def test_what_the_grammar_knows_stays(seen):
    run_command(
        "prepare",
        [
            *("data=folder", "data.data.root='a,b'", "output=${data.data.root}/lr=1"),
            *("num_workers=2", "+list=[1,x y]", "+none=null", "+deep={a:1}"),
        ],
    )
    config = seen.pop()
    assert config.output == "a,b/lr=1"
    assert config.num_workers == 2
    composed = config.composed
    assert (composed["list"], composed["none"], composed["deep"]) == ([1, "x y"], None, {"a": 1})


def test_a_sweep_over_such_paths(seen):
    run_command("prepare", ["data=folder", "output=o", "data.data.root=a (1),2024,é=1", "-m"])
    assert [config.data.data.root for config in seen] == ["a (1)", "2024", "é=1"]


def test_a_command_reads_such_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flow = tiny_flow(8, 2, 1, codec=Pixels(17), noise=GaussianNoise(0.1))
    flow.save_pretrained("ñ (1)/lr=0.001,b")
    tarflow("sample", "checkpoint=~/ñ (1)/lr=0.001,b", "num_samples=2", "output=[2]")
    assert Path("[2]/grid.png").exists()


SENTENCES = {
    ("optimizer.lrr=3",): "optimizer.lrr is not a setting: did you mean optimizer.lr?",
    ("optimiser.lr=3",): "optimiser.lr is not a setting: the configuration has no section optimi",
    ("sed=3",): "sed is not a setting: did you mean seed?",
    ("data=cifar",): "Could not find 'data/cifar' Available options in 'data': afhq arrays",
    ("data=digits,cifar10",): "add --multirun for a sweep",
    ("optimizer.lr=1e-3,1e-4",): "optimizer.lr=1e-3,1e-4 are several values: write [1e-3,1e-4]",
    ("seed",): "seed is not a setting: give key=value",
    ("seed", "=", "3"): "seed is not a setting: give key=value",
    ("--lr=3",): "--lr=3 is not an option: settings are key=value, without dashes",
    ("données=3",): "données=3 is not a setting: give key=value",
    ("+seed=3",): "Could not append to config. An item is already at 'seed'",
    ("~seeds",): "seeds",
    ("name=${nothing}",): "Interpolation key 'nothing' not found",
    ("name=a${b",): "name",
    ("optimizer.lr=(1,2)",): "lr='(1,2)': needed is float",
    ("=3",): "=3 is not a setting",
}


@pytest.mark.parametrize("arguments", SENTENCES)
def test_what_cannot_be_is_told_in_a_sentence(arguments, capsys):
    message = error_of("train", "run_dir=run", *arguments)
    assert message.startswith("tarflow: ")
    assert SENTENCES[arguments] in message
    assert "\n" not in message
    assert not any(capsys.readouterr())


def test_typed_values_stay_typed():
    assert as_typed(["a='x'", "a=1", "a=x y", "~a"], False) == ["a='x'", "a=1", "a=x y", "~a"]
    # Lightning gives it to the processes that it starts.
    assert as_typed(["hydra.output_subdir=null"], False) == ["hydra.output_subdir=null"]
