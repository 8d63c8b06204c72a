"""Metrics and conditions that the package does not know, evaluated by the command."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tarflow import (
    Conditioner,
    ConfigurationError,
    Context,
    ExampleSeeds,
    Flow,
    GaussianNoise,
    LinearGuidance,
    Pixels,
)
from tarflow.cli import run_command
from tarflow.data import ImageData, digits
from tarflow.data.loading.batches import read_batch
from tarflow.evaluation import (
    LikelihoodMetrics,
    Metrics,
    PixelFeatures,
    Report,
    SampleMetrics,
    frechet_distance,
)

from ..models import tiny_flow


@dataclass(frozen=True)
class NoiseLength(Metrics):
    """The length of the noise that images are mapped to: metrics as users write them."""

    batch_size: int = 50
    most_calls: int | None = None
    name: ClassVar[str] = "noise_length"
    calls: ClassVar[list[range]] = []

    def settings(self, flow: Flow, data: ImageData) -> dict[str, Any]:
        return {"data": data.name}

    def evaluate(self, flow: Flow, data: ImageData, work_of) -> Report | None:
        def compute(indices: range) -> dict[str, np.ndarray]:
            if len(self.calls) == self.most_calls:
                raise KeyboardInterrupt
            self.calls.append(indices)
            batch = read_batch(data.test, indices)
            z, _ = flow(flow.noisy(batch.x, ExampleSeeds(0, indices)), flow.known(batch.context))
            return {"length": z.detach().square().sum(dim=(1, 2)).sqrt().numpy()}

        rows = work_of("length").do("noise", len(data.test), self.batch_size, compute)
        if rows is None:
            return None
        mean = float(rows["length"].mean())
        table = [("length", f"{mean:.4f}")]
        values = {"mean": mean, **self.settings(flow, data)}
        per_image = {"length": rows["length"].tolist()}
        return Report(self.name, "noise", ("", "mean"), table, values, per_image)


@dataclass(frozen=True)
class ComparedLength(NoiseLength):
    """The same, which can also compare two flows."""

    def compare(self, report: Report, baseline: Report) -> Report:
        difference = report.values["mean"] - baseline.values["mean"]
        return replace(report, name="comparison", values={"difference": difference}, per_image={})


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Folders of two flows of digits with random weights."""
    folders = []
    for std in (0.1, 0.2):
        torch.manual_seed(0)
        sizes = {"num_transforms": 2, "num_layers": 1, "num_classes": 10}
        flow = tiny_flow(8, 2, 1, codec=Pixels(17), noise=GaussianNoise(std), **sizes)
        folders.append(tmp_path_factory.mktemp("run") / "pretrained")
        flow.save_pretrained(folders[-1])
    return folders


@pytest.fixture(autouse=True)
def own_package(monkeypatch):
    monkeypatch.setenv("TARFLOW_TARGETS", "tests")
    NoiseLength.calls.clear()


def evaluate(kind, pretrained, folder, *options):
    target = f"+metrics._target_={kind.__module__}.{kind.__name__}"
    given = [f"checkpoint={pretrained}", f"output={folder}", "~metrics", target]
    run_command("evaluate", [*given, *options])


def test_metrics_of_ones_own_leave_a_report(pretrained, tmp_path, capsys):
    evaluate(NoiseLength, pretrained[0], tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    expected = NoiseLength(360)(Flow.from_pretrained(pretrained[0]), digits())
    assert report["mean"] == pytest.approx(expected.values["mean"], rel=1e-5)
    assert report["checkpoint"] == str(pretrained[0])
    assert len((tmp_path / "report" / "per_image.csv").read_text().splitlines()) == 361
    assert f"{report['mean']:.4f}" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == ["per_image.csv", "report.json"]


def test_their_report_lies_beside_the_weights_under_their_name(pretrained):
    run = pretrained[0].parent
    run_command(
        "evaluate",
        [f"checkpoint={run}", "~metrics", f"+metrics._target_={__name__}.NoiseLength"],
    )
    assert (run / "evaluation" / "noise_length" / "report.json").exists()


def test_they_go_on_after_a_kill_and_share_work(pretrained, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(NoiseLength, pretrained[0], tmp_path, "+metrics.most_calls=3")
    assert len(NoiseLength.calls) == 3
    assert not (tmp_path / "report.json").exists()
    for rank in (1, 0):
        evaluate(NoiseLength, pretrained[0], tmp_path, f"rank={rank}", "world_size=2")
    assert sorted(index for indices in NoiseLength.calls for index in indices) == list(range(360))
    assert (tmp_path / "report.json").exists()


def test_they_compare_two_flows_where_they_can(pretrained, tmp_path):
    evaluate(ComparedLength, pretrained[0], tmp_path, f"baseline={pretrained[1]}")
    found = json.loads((tmp_path / "comparison" / "report.json").read_text())
    means = [
        NoiseLength(360)(Flow.from_pretrained(folder), digits()).values["mean"]
        for folder in pretrained
    ]
    assert found["difference"] == pytest.approx(means[0] - means[1], rel=1e-3)
    assert found["difference"] != 0
    assert found["baseline"] == str(pretrained[1])


def test_where_they_cannot_that_is_told_before_any_work(pretrained, tmp_path):
    with pytest.raises(SystemExit, match="noise_length cannot be compared"):
        evaluate(NoiseLength, pretrained[0], tmp_path, f"baseline={pretrained[1]}")
    assert not NoiseLength.calls
    report = Report("any", "", (), (), {})
    with pytest.raises(ConfigurationError, match="NoiseLength does not compare"):
        NoiseLength().compare(report, report)


@dataclass(frozen=True)
class Dose(Conditioner):
    """One number for each image: a condition as users write them."""

    part: ClassVar[str] = "dose"

    def null(self, examples: Tensor) -> Tensor:
        return examples.new_zeros(len(examples))

    def module(self, model_dim: int) -> nn.Module:
        return Dosing(1, model_dim)


class Dosing(nn.Linear):
    """Numbers to vectors."""

    def forward(self, rows):
        return super().forward(rows[:, None].to(self.weight.dtype))


class Dosed(Dataset):
    """Images that come with a dose, and with something that no flow knows."""

    def __init__(self, part):
        self.part = part

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        image, context = self.part[index]
        return image, {**context, "dose": index / 10, "unknown": torch.zeros(2)}


@pytest.fixture(scope="module")
def dosed():
    """Digits with a dose each."""
    data = digits()
    return replace(data, train=Dosed(data.train), test=Dosed(data.test))


def dosed_flow(num_classes):
    torch.manual_seed(0)
    sizes = {"num_transforms": 2, "num_layers": 1, "num_classes": num_classes}
    known = {"codec": Pixels(17), "noise": GaussianNoise(0.3), "conditioners": (Dose(),)}
    return tiny_flow(8, 2, 1, **sizes, **known).double()


@pytest.mark.parametrize("num_classes", [0, 10])
def test_likelihoods_depend_on_conditions_that_the_package_does_not_know(dosed, num_classes):
    flow = dosed_flow(num_classes)
    report = LikelihoodMetrics()(flow, dosed)
    expected = []
    for index in range(3):
        image, parts = dosed.test[index]
        source = ExampleSeeds(0, [index])
        x = flow.noisy(image[None], source, torch.float64)
        names = ["dose"] + ["label"] * bool(num_classes)
        context = Context(**{name: torch.tensor([parts[name]]) for name in names})
        expected.append(flow.log_prob(x, context).item())
    assert report.per_image["log_prob_nats"][:3] == pytest.approx(expected, rel=1e-10)
    assert report.per_image["dose"][:3] == pytest.approx([0, 0.1, 0.2])
    assert ("label" in report.per_image) == bool(num_classes)
    plain = LikelihoodMetrics()(flow, digits()).per_image["log_prob_nats"]
    assert not math.isclose(plain[5], report.per_image["log_prob_nats"][5], rel_tol=1e-6)


@pytest.mark.parametrize("num_classes", [0, 10])
def test_samples_are_drawn_with_the_conditions_of_training_images(dosed, num_classes):
    flow = dosed_flow(num_classes)
    options = {"num_samples": 20, "seeds": (3,), "guidance": LinearGuidance(1.0)}
    report = SampleMetrics(**options, extractors={"pixels": PixelFeatures()})(flow, dosed)
    dose = torch.tensor([index / 10 for index in range(20)])
    label = torch.arange(20) % 10 if num_classes else None
    x = flow.sample(20, Context(label=label, dose=dose), source=ExampleSeeds(3, range(20)))
    fake = flow.codec.decode(x).flatten(1).double()
    real = torch.stack([image for image, _ in dosed.train]).flatten(1).double()
    found = report.values["samples"]["no guidance, not denoised"]["pixels"]["frechet_distance"]
    assert found["mean"] == pytest.approx(frechet_distance(fake.numpy(), real.numpy()), rel=1e-9)
    guided = report.values["samples"]["guidance 1, not denoised"]["pixels"]["frechet_distance"]
    assert guided["mean"] != found["mean"]
