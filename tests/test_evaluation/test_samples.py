"""Quality of samples: the Fréchet distance, and reports on digits."""

import json
import math
import statistics

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.svm import SVC

from tarflow import (
    DataError,
    ExampleSeeds,
    GaussianNoise,
    LinearGuidance,
    NoNoise,
    Pixels,
    UniformDequantization,
    denoise,
)
from tarflow.data import ArrayDataset, ImageData, digits
from tarflow.evaluation import PixelFeatures, SampleMetrics, frechet_distance

from ..models import tiny_flow

NUM_SAMPLES = 30
NOISE = GaussianNoise(0.3)


def correlated(count=200, dim=6, seed=0):
    """Normal vectors with a random mean and covariance."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, dim)) @ generator.normal(size=(dim, dim)) + (
        generator.normal(size=dim)
    )


def reference(a, b):
    """The equation of Dowson and Landau, with a general matrix square root."""
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1])
    distance = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    return distance + np.trace(covariances[0] + covariances[1] - 2 * root.real)


@pytest.mark.parametrize("dim", [2, 6, 20])
def test_distance_is_that_of_the_equation(dim):
    a, b = correlated(dim=dim), correlated(count=90, dim=dim, seed=1)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_distance_of_a_set_to_itself_and_to_its_shift():
    a = correlated()
    shift = np.array([1.0, -2, 0, 0.5, 3, 0])
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + shift) == pytest.approx(14.25, rel=1e-9)


@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0])
def test_distance_to_a_scaled_set(factor):
    a = correlated()
    a -= a.mean(axis=0)
    variance = a.var(axis=0, ddof=1).sum()
    expected = (1 - factor) ** 2 * variance
    assert frechet_distance(a, factor * a) == pytest.approx(expected, rel=1e-9)


def test_distance_of_independent_gaussians():
    """Standard deviations are all that differs: the squared distance between them."""
    signs = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    unit = math.sqrt(4 / 3)
    a, b = signs * (2, 5), signs * (3, 1)
    assert frechet_distance(a, b) == pytest.approx(unit**2 * (1 + 16), rel=1e-12)


@pytest.mark.parametrize("count", [2, 5])
def test_singular_covariances(count):
    a = correlated(count, dim=64)
    a[:, :10] = 3
    spread = a - a.mean(axis=0)
    variance = a.var(axis=0, ddof=1).sum()
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * variance)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 64, abs=1e-6 * variance)
    assert frechet_distance(spread, 3 * spread) == pytest.approx(4 * variance, rel=1e-6)


def test_sets_that_share_no_direction():
    a, b = np.zeros((8, 4)), np.zeros((8, 4))
    a[:, :2], b[:, 2:] = correlated(8, 2), correlated(8, 2, seed=1)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    variances = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum()
    assert frechet_distance(a, b) == pytest.approx(variances, rel=1e-9)


def test_bytes_do_not_overflow():
    a = np.random.default_rng(0).integers(0, 256, (50, 4)).astype(np.uint8)
    b = 255 - a
    expected = reference(a.astype(float), b.astype(float))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def data():
    """Digits."""
    return digits()


def small_flow(num_classes=10, noise=NOISE, codec=Pixels(17)):
    sizes = {"num_transforms": 2, "num_layers": 1, "num_classes": num_classes}
    sizes |= {"noise": noise, "codec": codec}
    return tiny_flow(8, 2, 1, **sizes).double()


def metrics(**options):
    return SampleMetrics(**({"num_samples": NUM_SAMPLES, "batch_size": 30} | options))


@pytest.fixture(scope="module")
def flow():
    """A flow over digits with random weights."""
    torch.manual_seed(0)
    return small_flow()


@pytest.fixture(scope="module")
def report(flow, data):
    """What the metrics find out about it."""
    return metrics()(flow, data)


def rows_of(part):
    """Images as rows, and labels."""
    images = np.stack([image.flatten().numpy() for image, _ in part])
    return images, np.array([context["label"] for _, context in part])


def draw(flow, seed, guidance, denoised):
    """Samples as rows of integers, and their labels, drawn at once."""
    label = torch.arange(NUM_SAMPLES) % 10
    source = ExampleSeeds(seed, range(NUM_SAMPLES))
    x = flow.sample(NUM_SAMPLES, label, guidance=guidance, source=source)
    x = denoise(flow, x, label) if denoised else x
    return ((x + 1) * 8).round().clamp(0, 16).flatten(1).numpy(), label.numpy()


@pytest.mark.parametrize("guidance", [None, LinearGuidance(1.0)])
@pytest.mark.parametrize("denoised", [True, False])
def test_every_step_is_also_left_out(flow, data, report, guidance, denoised):
    name = "no guidance" if guidance is None else "guidance 1"
    scores = report.values["samples"][f"{name}, {'' if denoised else 'not '}denoised"]
    train, labels = rows_of(data.train)
    classifier = SVC(gamma=0.001).fit(train, labels)
    distances, accuracies = [], []
    for seed in (0, 1, 2):
        pixels, wanted = draw(flow, seed, guidance, denoised)
        distances.append(frechet_distance(pixels, train))
        accuracies.append((classifier.predict(pixels) == wanted).mean())
    assert scores["pixels"]["frechet_distance"]["mean"] == pytest.approx(
        statistics.fmean(distances)
    )
    assert scores["pixels"]["frechet_distance"]["deviation"] == pytest.approx(
        statistics.stdev(distances)
    )
    assert scores["accuracy"]["mean"] == pytest.approx(statistics.fmean(accuracies))
    assert scores["accuracy"]["deviation"] == pytest.approx(statistics.stdev(accuracies))


def test_variants_differ(report):
    distances = {
        name: scores["pixels"]["frechet_distance"]["mean"]
        for name, scores in report.values["samples"].items()
    }
    assert list(distances) == [
        "guidance 1, denoised",
        "guidance 1, not denoised",
        "no guidance, denoised",
        "no guidance, not denoised",
        "real held-out images",
    ]
    assert len(set(distances.values())) == 5
    assert distances.pop("real held-out images") < 0.5 * min(distances.values())


def test_real_images_are_the_yardstick(data, report):
    real = report.values["samples"]["real held-out images"]
    (train, labels), (test, wanted) = rows_of(data.train), rows_of(data.test)
    expected = frechet_distance(test, train)
    assert real["pixels"]["frechet_distance"] == {
        "mean": pytest.approx(expected),
        "deviation": 0.0,
    }
    classifier = SVC(gamma=0.001).fit(train, labels)
    accuracy = (classifier.predict(test) == wanted).mean()
    assert real["accuracy"] == {"mean": pytest.approx(accuracy), "deviation": 0.0}
    assert accuracy > 0.97


def test_report_on_samples(tmp_path, data, report):
    assert report.values["seeds"] == [0, 1, 2]
    assert report.values["num_samples"] == NUM_SAMPLES
    assert report.values["data"] == data.name
    assert report.values["guidance"] == repr(LinearGuidance(1.0))
    assert "deviation over 3 seeds" in report.title
    values = json.loads(report.write(tmp_path, tmp_path / "pretrained").read_text())
    assert values == {"checkpoint": str(tmp_path / "pretrained"), **report.values}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_table_of_samples(report):
    assert len(report.columns) == 6
    assert [row[0] for row in report.rows] == list(report.values["samples"])
    for name, distance, kernel, precision, recall, accuracy in report.rows:
        scores = report.values["samples"][name]
        assert distance.startswith(f"{scores['pixels']['frechet_distance']['mean']:.2f}")
        pixels = scores["pixels"]
        assert kernel.startswith(f"{pixels['kernel_distance']['mean']:.3g}")
        assert precision.startswith(f"{pixels['precision']['mean']:.3f}")
        assert recall.startswith(f"{pixels['recall']['mean']:.3f}")
        assert accuracy.startswith(f"{scores['accuracy']['mean']:.4f}")
        assert ("±" in distance) == (name != "real held-out images")


@pytest.mark.parametrize("batch_size", [1, 7])
def test_result_does_not_depend_on_the_batch_size(flow, data, batch_size):
    options = {"num_samples": 12, "seeds": (3,)}
    values = metrics(**options)(flow, data).values["samples"]
    assert metrics(**options, batch_size=batch_size)(flow, data).values["samples"] == values


def test_seeds_change_the_samples(flow, data):
    first, other = (metrics(seeds=(seed,))(flow, data).values["samples"] for seed in (1, 2))
    for name in first.keys() - {"real held-out images"}:
        assert (
            first[name]["pixels"]["frechet_distance"] != other[name]["pixels"]["frechet_distance"]
        )
        assert first[name]["pixels"]["frechet_distance"]["deviation"] == 0


def test_flow_without_classes(data):
    report = metrics(seeds=(0, 1))(small_flow(num_classes=0), data)
    values = report.values["samples"]
    assert list(values) == [
        "no guidance, denoised",
        "no guidance, not denoised",
        "real held-out images",
    ]
    assert ["accuracy" in scores for scores in values.values()] == [False, False, True]
    assert [bool(row[-1]) for row in report.rows] == [False, False, True]


def test_dequantized_flow_is_not_denoised(data):
    flow = small_flow(noise=NoNoise(), codec=UniformDequantization(17))
    report = metrics(seeds=(0,), guidance=LinearGuidance(2.5))(flow, data)
    assert list(report.values["samples"]) == [
        "guidance 2.5, not denoised",
        "no guidance, not denoised",
        "real held-out images",
    ]


def test_data_without_classes():
    images = torch.randint(0, 17, (40, 1, 8, 8), dtype=torch.uint8)
    part = ArrayDataset(images, torch.full((40,), -1))
    data = ImageData("fake data", part, None, part, Pixels(17), 0, (1, 8, 8))
    report = metrics(seeds=(0,))(small_flow(num_classes=0), data)
    assert {len(report.columns), *map(len, report.rows)} == {5}
    assert not [scores for scores in report.values["samples"].values() if "accuracy" in scores]
    real = report.values["samples"]["real held-out images"]["pixels"]["frechet_distance"]["mean"]
    variance = images.double().flatten(1).var(dim=0).sum().item()
    assert real == pytest.approx(0, abs=1e-6 * variance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 3}, "number of classes 10, but the flow was made for 3"),
        ({"codec": Pixels(256)}, "levels 17, but the flow was made for 256"),
        ({"noise": None}, "does not name the noise"),
    ],
)
def test_other_data_is_refused(data, options, message):
    with pytest.raises(DataError, match=message):
        metrics()(small_flow(**options), data)


class Damaged(ArrayDataset):
    """Images of which the first and another one cannot be read."""

    def __getitems__(self, indices):
        if found := sorted({0, 21}.intersection(indices)):
            raise DataError(f"{found[0]}.png is truncated")
        return super().__getitems__(indices)

    def __getitem__(self, index):
        return self.__getitems__([index])[0]


def test_images_that_cannot_be_read_are_left_out_and_counted():
    images = torch.randint(17, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images, labels = images.to(torch.uint8), torch.arange(60) % 3
    kept = [index for index in range(60) if index not in (0, 21)]
    flow = tiny_flow(8, 2, 1, num_classes=3, codec=Pixels(17), noise=NOISE)
    metrics = SampleMetrics(num_samples=8, seeds=(0,), extractors={"pixels": PixelFeatures()})
    found, expected = (
        metrics(flow, ImageData("some", part, None, part, Pixels(17), 3, (1, 8, 8)))
        for part in (Damaged(images, labels), ArrayDataset(images[kept], labels[kept]))
    )
    assert found.values["unreadable"] == {"training": 2, "held-out": 2}
    assert expected.values["unreadable"] == {"training": 0, "held-out": 0}
    assert found.values["samples"] == expected.values["samples"]
    assert list(found.notes) == [
        "2 training images are left out: unreadable",
        "2 held-out images are left out: unreadable",
    ]
    assert not expected.notes
