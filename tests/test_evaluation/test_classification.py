"""Classes by density and by gradient, against densities one by one and finite differences."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

from tarflow import (
    ConfigurationError,
    DataError,
    ExampleSeeds,
    GaussianNoise,
    Pixels,
    UniformLevels,
)
from tarflow.cli import run_command
from tarflow.data import digits
from tarflow.evaluation import (
    ClassificationMetrics,
    InMemory,
    classify_by_density,
    classify_by_gradient,
)
from tarflow.evaluation.classification import class_log_probs
from tarflow.randomness import ExampleStreams

from ..models import randomized, tiny_flow
from .test_likelihood import fake_data, small_flow


def one(index):
    """The source of the noise of an image."""
    return ExampleSeeds(0, [index])


@pytest.fixture(scope="module")
def flow():
    """One whose classes differ clearly."""
    made = tiny_flow(num_classes=3, num_transforms=2, num_layers=1).double().eval()
    for part in made.transform:
        if hasattr(part, "label_embedding"):
            randomized(part.label_embedding, 3.0)
    return made


@pytest.fixture(scope="module")
def x(flow):
    """Samples of each class in turn."""
    return flow.sample(60, torch.arange(60) % 3, source=ExampleSeeds(0, range(60)))


@pytest.mark.parametrize("max_batch", [None, 256, 7, 1])
def test_densities_of_all_classes_are_those_one_by_one(flow, x, max_batch):
    found = class_log_probs(flow, x[:5], max_batch=max_batch)
    expected = [[flow.log_prob(row[None], c).item() for c in range(3)] for row in x[:5]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=x.dtype))


def test_the_posterior_is_that_of_bayes(flow, x):
    density = class_log_probs(flow, x).exp()
    expected = density / density.sum(dim=1, keepdim=True)
    torch.testing.assert_close(classify_by_density(flow, x).exp(), expected)
    prior = torch.tensor([0.2, 0.0, 0.8])
    weighed = density * prior
    expected = weighed / weighed.sum(dim=1, keepdim=True)
    torch.testing.assert_close(classify_by_density(flow, x, prior=prior).exp(), expected)
    scaled = (classify_by_density(flow, x, prior=k * prior) for k in (1, 4))
    torch.testing.assert_close(*scaled)


def test_the_gradient_is_that_by_logits_of_the_classes(flow, x):
    found, step = classify_by_gradient(flow, x[:4], max_batch=3), 1e-5
    for label in range(3):
        logits = torch.zeros(4, 3).double()
        ends = []
        for sign in (1, -1):
            logits[:, label] = sign * step
            ends.append(flow.log_prob(x[:4], logits.softmax(dim=1)).detach())
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(found[:, label], slope, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(4).double())
    assert found.grad_fn is None


def test_samples_are_of_the_class_that_they_were_drawn_for(flow, x):
    for found in (classify_by_density(flow, x), classify_by_gradient(flow, x)):
        assert (found.argmax(dim=1) == torch.arange(60) % 3).double().mean() > 0.7


def test_it_works_in_inference_mode(flow, x):
    with torch.inference_mode():
        kept = x[:2].clone()
        found = classify_by_gradient(flow, kept)
    torch.testing.assert_close(found, classify_by_gradient(flow, x[:2]))


@pytest.mark.parametrize("prior", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_prior_of_other_classes_is_refused(flow, x, prior):
    with pytest.raises(ConfigurationError, match=r"prior .* each of the 3 classes"):
        classify_by_density(flow, x[:1], prior=torch.tensor(prior))


@pytest.mark.parametrize("num_classes", [0, 1])
def test_a_flow_without_classes_is_refused(x, num_classes):
    flow = tiny_flow(num_classes=num_classes).double()
    for classify in (classify_by_density, classify_by_gradient):
        with pytest.raises(ConfigurationError, match=f"flow of {num_classes} classes"):
            classify(flow, x)


def test_accuracies_are_those_image_by_image():
    flow, data = small_flow(noise=GaussianNoise(0.2)), fake_data()
    report = ClassificationMetrics(num_draws=1)(flow, data)
    for way, classify in (("density", classify_by_density), ("gradient", classify_by_gradient)):
        taken = []
        for index, (image, _) in enumerate(data.test):
            x = flow.noisy(image[None], one(index), torch.float64)
            taken.append(int(classify(flow, x).argmax()))
        labels = [context["label"] for _, context in data.test]
        assert report.per_image[f"by_{way}"] == taken
        right = [a == b for a, b in zip(taken, labels, strict=True)]
        share = sum(right) / len(right)
        found = report.values[way]
        assert found["accuracy"]["mean"] == pytest.approx(share)
        error = math.sqrt(share * (1 - share) / (len(right) - 1))
        assert found["accuracy"]["standard_error"] == pytest.approx(error)
        assert sum(map(sum, found["confusion"])) == len(right)
        for label, prediction in zip(labels, taken, strict=True):
            assert found["confusion"][label][prediction] > 0
    assert "11 test images of fake data" in report.title


def test_predictions_do_not_depend_on_the_batch_size():
    flow, data = small_flow(noise=GaussianNoise(0.5)), fake_data()
    sizes = (64, 3)
    whole, parts = (ClassificationMetrics("test", n, 0, 2)(flow, data) for n in sizes)
    assert whole.per_image == parts.per_image
    assert whole.values == parts.values


def test_several_draws_are_averaged():
    flow, data = small_flow(noise=GaussianNoise(0.5)), fake_data()
    found = {}

    class Watched(InMemory):
        def do(self, title, count, batch_size, compute):
            return found.setdefault(draws, super().do(title, count, batch_size, compute))

    for draws in (1, 3):
        ClassificationMetrics(num_draws=draws).evaluate(flow, data, lambda name: Watched())
    stored = torch.stack([image for image, _ in data.test])
    streams = ExampleStreams(0, range(11))
    noisy = [flow.noisy(stored, streams, torch.float64) for _ in range(3)]
    densities = torch.stack([class_log_probs(flow, x) for x in noisy])
    torch.testing.assert_close(torch.from_numpy(found[1]["density"]), densities[0])
    torch.testing.assert_close(torch.from_numpy(found[3]["density"]), densities.mean(dim=0))


def test_a_flow_of_many_noise_levels_is_evaluated_at_one():
    data, levels = fake_data(), UniformLevels(0.1, 0.5)
    flow = small_flow(noise=levels, codec=Pixels(17))
    report = ClassificationMetrics(noise_level=0.25)(flow, data)
    taken = []
    for index, (image, _) in enumerate(data.test):
        x = GaussianNoise(0.25)(flow.codec.encode(image[None], dtype=torch.float64), one(index))
        context = {"noise_level": torch.tensor([0.25])}
        taken.append(int(classify_by_density(flow, x, context).argmax()))
    assert report.per_image["by_density"] == taken
    assert ClassificationMetrics()(flow, data).values["noise"] == repr(levels)
    with pytest.raises(ConfigurationError, match="no levels to choose from"):
        ClassificationMetrics(noise_level=0.25)(small_flow(noise=GaussianNoise(0.2)), data)


def test_images_without_a_class_are_left_out():
    flow, data = small_flow(noise=GaussianNoise(0.2)), fake_data()
    plain = ClassificationMetrics()(flow, data)
    data.test.labels[3:5] = -1
    report = ClassificationMetrics()(flow, data)
    assert report.values["unreadable_or_unlabelled"] == 2
    assert sum(map(sum, report.values["density"]["confusion"])) == 9
    assert report.per_image["by_density"] == plain.per_image["by_density"]


def test_other_data_is_refused():
    flow = small_flow(noise=GaussianNoise(0.2))
    with pytest.raises(DataError, match="number of classes"):
        ClassificationMetrics()(flow, fake_data(num_classes=4))
    with pytest.raises(ConfigurationError, match="flow of 0 classes"):
        ClassificationMetrics()(small_flow(0), fake_data())
    with pytest.raises(DataError, match="no validation part"):
        ClassificationMetrics("validation")(flow, replace(fake_data(), validation=None))


def test_the_command_leaves_a_report(tmp_path, capsys):
    sizes = {"num_classes": 10, "num_layers": 1, "num_transforms": 1}
    flow = tiny_flow(8, 4, 1, codec=Pixels(17), noise=GaussianNoise(0.1), **sizes)
    flow.save_pretrained(tmp_path / "pretrained")
    for rank in (1, 0):
        run_command(
            "evaluate",
            [f"checkpoint={tmp_path}", "metrics=classification", f"rank={rank}", "world_size=2"],
        )
    told = capsys.readouterr().out
    assert "accuracy by density" in told
    assert "accuracy by gradient" in told
    folder = tmp_path / "evaluation" / "classification"
    report = json.loads((folder / "report.json").read_text())
    assert sum(map(sum, report["gradient"]["confusion"])) == 360
    expected = ClassificationMetrics()(flow.eval(), digits())
    assert report["density"]["confusion"] == expected.values["density"]["confusion"]
    with (folder / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["by_gradient"]) for row in rows] == expected.per_image["by_gradient"]
