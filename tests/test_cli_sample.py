"""`tarflow sample`: what it leaves, and how it goes on after a kill, alone or with others."""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tarflow import (
    Conditioner,
    ExampleSeeds,
    GaussianNoise,
    LinearGuidance,
    OneStep,
    Pixels,
    ProbabilityFlow,
    StochasticDenoising,
    TarFlow,
    UniformLevels,
    denoise,
    load,
)

from .models import tiny_flow
from .test_cli import error_of, tarflow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A pretrained folder of a tiny flow."""
    directory = tmp_path_factory.mktemp("run") / "pretrained"
    flow = tiny_flow(num_channels=1, num_classes=3, codec=Pixels(17), noise=GaussianNoise(0.3))
    flow.save_pretrained(directory)
    return directory


@pytest.fixture
def sample(checkpoint, tmp_path, monkeypatch):
    """Calls the command on that folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return tarflow("sample", f"checkpoint={checkpoint}", *arguments)

    return call


def times(folder):
    """When each file was written, by name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def contents(folder):
    """The bytes of what a run leaves, by name."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".png", ".npz", ".csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_finished_run_does_no_work(sample, checkpoint, capsys):
    sample("num_samples=5", "save_npz=true")
    output = checkpoint.parent / "samples"
    assert {path.name for path in output.iterdir()} == {
        *("certificates.csv", "grid.png", "samples.npz", "shards")
    }
    before = times(output)
    capsys.readouterr()
    sample("num_samples=5", "save_npz=true")
    out = capsys.readouterr().out
    assert f"5 samples are drawn already. Their files: {output / 'grid.png'}, " in out
    assert "sampling" not in out
    assert times(output) == before


def test_arrays_in_the_layout_of_another_evaluator(sample):
    sample("num_samples=5", "output=out", "save_npz=true")
    with np.load("out/samples.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    sample("num_samples=5", "output=out", "save_npz=adm")  # drawn already: written anew
    with np.load("out/samples.npz") as arrays:
        assert arrays["arr_0"].shape == (5, *images.shape[2:], 3)
        assert np.array_equal(arrays["arr_1"], labels)
    with pytest.raises(SystemExit, match="save_npz='evaluator': choose true"):
        sample("num_samples=5", "output=out", "save_npz=evaluator")


def test_more_samples_and_other_files_are_added(sample, capsys):
    sample("num_samples=5", "output=out", "batch_size=3")
    before = times(Path("out/shards"))
    sample("num_samples=8", "output=out", "batch_size=3", "save_npz=true", "save_png=true")
    now = times(Path("out/shards"))
    assert {name: now[name] for name in before if name[:3] == "000"}.items() <= before.items()
    sample("num_samples=8", "output=once", "batch_size=3", "save_npz=true")
    with np.load("out/samples.npz") as arrays, np.load("once/samples.npz") as expected:
        labels = arrays["labels"].tolist()
        assert labels == expected["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
        # a batch of another size may round a number at the edge of two levels either way
        difference = arrays["images"].astype(int) - expected["images"].astype(int)
        assert np.abs(difference).max() <= 1
    assert len(list(Path("out/images").iterdir())) == 8


@pytest.mark.parametrize("options", [[], ["dtype=bfloat16"], ["dtype=bfloat16", "denoise=false"]])
def test_every_sample_has_a_certificate(sample, capsys, options):
    jacobi = ["decoder=jacobi", "window=3", "tolerance=0.01"]
    sample("num_samples=5", "output=out", "batch_size=3", *jacobi, *options)
    assert "5 of 5 samples certified, largest residual" in capsys.readouterr().out
    header, *rows = Path("out/certificates.csv").read_text().splitlines()
    assert header == "index,certified,redone,residual_0,residual_1,residual_2,finite,why"
    residuals = [float(cell) for row in rows for cell in row.split(",")[3:6]]
    assert len(residuals) == 15
    assert 0 < max(residuals) <= 0.01


def test_sequential_samples_in_lower_precision_are_measured_too(sample):
    largest = {}
    for name, options in {"full": [], "half": ["dtype=bfloat16"]}.items():
        sample("num_samples=3", f"output={name}", *options)
        rows = csv.DictReader(Path(name, "certificates.csv").read_text().splitlines())
        largest[name] = max(float(row["residual_2"]) for row in rows)
    assert largest["full"] < 1e-5 < largest["half"]


def test_the_grid_shows_the_first_samples(sample):
    sample("num_samples=9", "output=all", "denoise=false")
    sample("num_samples=9", "output=four", "denoise=false", "grid_samples=4", "columns=2")
    with Image.open("all/grid.png") as all_nine, Image.open("four/grid.png") as four:
        factor = four.width // (2 * 5 + 1)
        assert four.width == four.height == factor * 11
        assert all_nine.width % (3 * 5 + 1) == 0
    sample("num_samples=9", "output=four", "denoise=false", "grid_samples=9")
    assert Path("four/grid.png").read_bytes() == Path("all/grid.png").read_bytes()


def test_other_settings_need_another_folder_or_consent(sample, checkpoint):
    sample("num_samples=5", "output=out", "save_png=true")
    before = contents(Path("out"))
    command = ["sample", f"checkpoint={checkpoint}", "num_samples=4", "output=out"]
    message = error_of(*command, "seed=3", "guidance=1.5")
    assert "seed: 0 -> 3" in message
    assert "guidance: None -> LinearGuidance(weight=1.5" in message
    assert "overwrite=true" in message
    assert contents(Path("out")) == before
    sample("num_samples=4", "output=out", "seed=3", "overwrite=true")
    sample("num_samples=4", "output=fresh", "seed=3")
    assert contents(Path("out")) == contents(Path("fresh"))


def test_a_changed_checkpoint_is_noticed(sample, checkpoint, tmp_path):
    other = tmp_path / "other"
    flow = TarFlow.from_pretrained(checkpoint)
    options = {
        field.name: getattr(flow.description, field.name) for field in fields(flow.description)
    }
    noisier = TarFlow(**(options | {"noise": GaussianNoise(0.2)}))
    noisier.load_state_dict(flow.state_dict())
    noisier.save_pretrained(other)
    sample("num_samples=4", "output=out")
    message = error_of("sample", f"checkpoint={other}", "num_samples=4", "output=out")
    assert "config.json: " in message
    assert "model.safetensors: " not in message


@dataclass(frozen=True)
class GivenBrightness(Conditioner):
    """Reads one number per image."""

    part: ClassVar[str] = "brightness"

    def null(self, examples):
        return examples.new_zeros(len(examples))

    def read(self, rows):
        return rows

    def check(self, rows):
        assert rows.is_floating_point()

    def module(self, model_dim):
        return Numbers(model_dim)


class Numbers(nn.Module):
    """Multiplies a number by a learned vector."""

    def __init__(self, model_dim):
        super().__init__()
        self.vector = nn.Parameter(torch.ones(model_dim))

    def forward(self, value):
        return value[:, None] * self.vector


def test_other_conditions_are_given_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"codec": Pixels(17), "noise": GaussianNoise(0.3)}
    tiny_flow(num_channels=1, conditioners=(GivenBrightness(),), **options).save_pretrained("run")
    command = ["sample", "checkpoint=run", "num_samples=4", "denoise=false", "save_npz=true"]
    drawn = {}
    for name, given in {"one": "0.5", "turns": "[0.5,2.0]", "other": "2.0"}.items():
        tarflow(*command, f"+context.brightness={given}", f"output={name}")
        with np.load(f"{name}/samples.npz") as arrays:
            drawn[name] = arrays["images"]
    assert np.array_equal(drawn["turns"][::2], drawn["one"][::2])
    assert np.array_equal(drawn["turns"][1::2], drawn["other"][1::2])
    assert not np.array_equal(drawn["one"], drawn["other"])
    again = [*command, "output=one", "+context.brightness=2.0"]
    assert "brightness: [0.5] -> [2.0]" in error_of(*again)
    assert "colour" in error_of(*command, "+context.colour=1", "output=a")
    for value in ("red", "[]", "[[1],[1,2]]", "true"):
        message = error_of(*command, f"+context.brightness={value}", "output=a")
        assert "give a number, or a list" in message, value


def test_errors_say_what_to_do(sample, checkpoint, tmp_path):
    command = ["sample", f"checkpoint={checkpoint}", "num_samples=4"]
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_of(*command, "output=file")
    assert "cannot be written" in error_of(*command, "output=/proc/here")
    assert "give float32, bfloat16, float16" in error_of(*command, "dtype=int8", "output=a")
    assert "give both, or neither" in error_of(*command, "rank=1", "output=a")
    assert "ranks go from 0" in error_of(*command, "rank=2", "world_size=2", "output=a")
    assert "must be at least 1" in error_of(*command, "batch_size=0", "output=a")
    assert "must be at least 1" in error_of(*command, "grid_samples=0", "output=a")


PROGRAM = """
import os, signal
from tarflow.cli import main  # once for both processes: it takes most of the time

replace = os.replace

def die(new, path):
    if os.path.basename(path) == "000016-000019.npz":  # it is written, and has not its name yet
        os.kill(os.getpid(), signal.SIGKILL)
    replace(new, path)

os.replace = die
pids = []
for rank in range(2):
    pids.append(os.fork())
    if not pids[-1]:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))  # as torchrun
        main()
        os._exit(0)
print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
"""


def test_a_killed_process_goes_on_and_several_leave_what_one_leaves(sample, checkpoint, capsys):
    what = ["num_samples=22", "batch_size=4", "save_npz=true"]
    command = ["sample", f"checkpoint={checkpoint}", *what, "output=two"]
    killed = subprocess.run(
        [sys.executable, "-u", "-c", PROGRAM, *command], capture_output=True, text=True
    )
    assert killed.stdout.splitlines()[-1] == f"{-signal.SIGKILL} 0", killed.stderr
    assert "process 1 has drawn its share" in killed.stdout
    before = times(Path("two"))
    assert {name for name in before if name[0].isdecimal()} == {
        "000000-000003.npz",
        "000004-000007.npz",
        "000008-000011.npz",
        "000012-000015.npz",
        "000020-000021.npz",
    }
    assert ".000016-000019.npz.new" in before
    sample(*what, "output=two", "rank=0", "world_size=2")
    assert "going on from 18 of" in capsys.readouterr().out
    after = times(Path("two"))
    assert {name: after[name] for name in before if name[0].isdecimal()}.items() <= before.items()
    sample(*what, "output=one")
    assert contents(Path("two")) == contents(Path("one"))
    assert len(contents(Path("one"))) == 6 + 3


def test_samples_that_are_not_finite_end_nothing_and_are_told(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flow = TarFlow.from_pretrained(checkpoint)
    with torch.no_grad():  # one of three classes overflows
        for name, weight in flow.named_parameters():
            if name.endswith("label_embedding.weight"):
                weight[1] = 1e38
    flow.save_pretrained("pretrained")
    options = ("num_samples=7", "batch_size=3", "save_npz=true", "output=out")
    tarflow("sample", "checkpoint=pretrained", *options)
    assert "2 not finite (black; certificates.csv tells why)" in capsys.readouterr().out
    with open("out/certificates.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["finite"] for row in rows] == ["1", "0", "1", "1", "0", "1", "1"]
    assert [bool(row["why"]) for row in rows] == [False, True, False, False, True, False, False]
    with np.load("out/samples.npz") as arrays:
        shown = arrays["images"].reshape(7, -1).any(axis=1)
    assert shown.tolist() == [True, False, True, True, False, True, True]


# --- Many noise levels ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def levels(tmp_path_factory) -> Path:
    """A pretrained folder of a tiny flow of many noise levels."""
    directory = tmp_path_factory.mktemp("levels") / "pretrained"
    noise = UniformLevels(0.05, 0.5)
    tiny_flow(num_channels=1, num_classes=3, codec=Pixels(17), noise=noise).save_pretrained(
        directory
    )
    return directory


def test_samples_of_many_levels_go_down_a_ladder(levels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = (
        f"checkpoint={levels}",
        "num_samples=4",
        "guidance=1.0",
        "save_npz=true",
        "batch_size=3",
    )

    def drawn(folder, *options):
        tarflow("sample", *told, f"output={folder}", "denoising_steps=4", *options)
        with np.load(f"{folder}/samples.npz") as arrays:
            return torch.from_numpy(arrays["images"])

    flow, label = load(levels), torch.arange(4) % 3
    seeds = ExampleSeeds(0, range(4))
    x = flow.sample(4, label, source=seeds, guidance=LinearGuidance(1.0))
    for name, denoiser in {
        "auto": ProbabilityFlow(4),
        "probability_flow": ProbabilityFlow(4),
        "stochastic": StochasticDenoising(4),
        "one_step": OneStep(),
    }.items():
        clean = denoise(flow, x, label, denoiser=denoiser, source=seeds)
        assert torch.equal(drawn(name, f"denoiser={name}"), flow.codec.decode(clean))
    settings = json.loads(Path("auto/shards/settings.json").read_text())
    assert settings["denoiser"] == "ProbabilityFlow(steps=4, low=0.05)"
    with pytest.raises(SystemExit, match=r"holds samples of other settings .denoiser"):
        drawn("auto", "denoiser=stochastic")
    assert torch.equal(drawn("raw", "denoise=false"), flow.codec.decode(x))


def test_samples_are_drawn_at_another_level_on_request(levels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = (f"checkpoint={levels}", "num_samples=3", "denoise=false", "save_npz=true")
    tarflow("sample", *told, "output=low", "+context.noise_level=0.1")
    flow, context = load(levels), {"label": torch.arange(3), "noise_level": 0.1}
    x = flow.sample(3, context, source=ExampleSeeds(0, range(3)))
    with np.load("low/samples.npz") as arrays:
        assert torch.equal(torch.from_numpy(arrays["images"]), flow.codec.decode(x))


def test_a_ladder_for_a_flow_of_one_level_is_refused(sample):
    with pytest.raises(SystemExit, match="goes through many noise levels, but this flow"):
        sample("num_samples=3", "output=out", "denoiser=stochastic")


def test_a_flow_of_many_levels_is_calibrated(levels, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tarflow("calibrate", f"checkpoint={levels}", "batch_size=2", "repetitions=1", "windows=[4]")
    tarflow("sample", f"checkpoint={levels}", "num_samples=2", "batch_size=2", "output=out")
    assert "decoding by the calibrated plan" in capsys.readouterr().out
