"""Judging samples by the command: shared between processes, gone on with after a kill."""

import json

import pytest
import torch

from tarflow import GaussianNoise, LinearGuidance, Pixels
from tarflow.cli import run_command
from tarflow.data import digits
from tarflow.evaluation import Kept, PixelFeatures, SampleMetrics

from ..models import tiny_flow


@pytest.fixture(scope="module")
def flow():
    """A flow of digits with random weights."""
    torch.manual_seed(0)
    sizes = {"num_transforms": 2, "num_layers": 1, "num_classes": 10}
    return tiny_flow(8, 2, 1, codec=Pixels(17), noise=GaussianNoise(0.3), **sizes)


@pytest.fixture(scope="module")
def pretrained(flow, tmp_path_factory):
    """Its folder."""
    directory = tmp_path_factory.mktemp("run") / "pretrained"
    flow.save_pretrained(directory)
    return directory


def evaluate(pretrained, folder, *options):
    sizes = ["metrics.num_samples=20", "metrics.batch_size=6", "metrics.seeds=[0,1]"]
    given = [f"checkpoint={pretrained}", "data=digits", "metrics=samples", f"output={folder}"]
    run_command("evaluate", [*given, *sizes, *options])


def test_two_processes_judge_samples_as_one(pretrained, tmp_path):
    reports = {}
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        for rank in reversed(range(world_size)):
            evaluate(pretrained, folder, f"rank={rank}", f"world_size={world_size}")
            assert (folder / "report.json").exists() == (rank == 0)
        assert [path.name for path in folder.iterdir()] == ["report.json"]
        reports[world_size] = (folder / "report.json").read_bytes()
    assert reports[1] == reports[2]


def test_the_command_names_the_file_that_is_missing(pretrained, tmp_path, capsys):
    missing = tmp_path / "weights.pth"
    options = [f"metrics.extractors.inception.weights={missing}", "metrics.seeds=[0]"]
    statistics = tmp_path / "digits.npz"
    evaluate(pretrained, tmp_path / "report", *options, f"metrics.statistics={statistics}")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["skipped"] == {"inception": f"there are no weights at {missing}"}
    assert f"inception is skipped: there are no weights at {missing}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="statistics of other real images"):
        evaluate(
            pretrained,
            tmp_path / "other",
            *options,
            f"metrics.statistics={statistics}",
            "metrics.num_reference=70",
        )


class Killed(Exception):
    pass


class Mortal(PixelFeatures):
    """Pixels that end after some batches, and remember how many images they saw."""

    def __init__(self, lives):
        super().__init__()
        self.__dict__.update(lives=lives, seen=0)

    def __call__(self, stored, codec):
        if self.lives == 0:
            raise Killed
        self.__dict__.update(lives=self.lives - 1, seen=self.seen + len(stored))
        return super().__call__(stored, codec)


@pytest.mark.parametrize("lives", [1, 9])
def test_a_killed_evaluation_goes_on_without_repeating(flow, tmp_path, lives):
    def run(extractor):
        metrics = SampleMetrics(
            num_samples=20,
            seeds=(0,),
            batch_size=6,
            guidance=LinearGuidance(1.0),
            extractors={"pixels": extractor},
            num_reference=600,
        )
        return metrics.evaluate(flow, digits(), lambda name: Kept(tmp_path / name, {}))

    whole, killed, after = Mortal(-1), Mortal(lives), Mortal(-1)
    with pytest.raises(Killed):
        run(killed)
    again = run(after)
    assert 600 + 360 + 4 * 20 - 12 <= killed.seen + after.seen <= 600 + 360 + 4 * 20 + 12
    for path in tmp_path.rglob("*.npz"):
        path.unlink()
    assert again.values["samples"] == run(whole).values["samples"]
    assert whole.seen == 600 + 360 + 4 * 20
