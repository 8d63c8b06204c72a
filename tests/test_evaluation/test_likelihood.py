"""Likelihoods of parts of a data set, against sums over images one by one."""

import csv
import json
import math
import os
import statistics

import pytest
import torch

from tarflow import (
    ConfigurationError,
    DataError,
    ExampleSeeds,
    GaussianNoise,
    NonFiniteError,
    NoNoise,
    Pixels,
    StandardNormal,
    TarFlow,
    UniformDequantization,
    UniformLevels,
)
from tarflow.data import ArrayDataset, ImageData
from tarflow.evaluation import Kept, LikelihoodMetrics
from tarflow.randomness import ExampleStreams

from ..models import tiny_flow

LEVELS = 17
SIZES = {"train": 13, "validation": 7, "test": 11}


def random_part(count, num_classes, shape):
    images = torch.randint(0, LEVELS, (count, *shape), dtype=torch.uint8)
    labels = torch.arange(count) % num_classes if num_classes else torch.full((count,), -1)
    return ArrayDataset(images, labels)


def fake_data(num_classes=3, shape=(1, 8, 8), **changes):
    """Random pixels in three parts of different sizes."""
    parts = {name: random_part(count, num_classes, shape) for name, count in SIZES.items()}
    fields = {"codec": Pixels(LEVELS), "num_classes": num_classes, "image_shape": shape}
    return ImageData(**({"name": "fake data", **parts, **fields} | changes))


class Noted(ArrayDataset):
    """Notes in a file which process reads an image."""

    def note(self, path):
        self.path = path
        return self

    def __getitems__(self, indices):
        with self.path.open("a") as file:
            print(*[os.getpid()] * len(indices), file=file)
        return super().__getitems__(indices)


def small_flow(num_classes=3, noise=NoNoise(), codec=None, **options):
    """A flow of random weights; without noise, of dequantized pixels."""
    kind = UniformDequantization if isinstance(noise, NoNoise) else Pixels
    sizes = {"num_transforms": 2, "num_layers": 1, "num_classes": num_classes}
    sizes |= {"noise": noise, "codec": codec or kind(LEVELS)}
    return tiny_flow(8, 2, 1, **(sizes | options)).double()


def identity_flow(codec, noise):
    """A flow that maps data to itself: so every flow starts."""
    sizes = {"model_dim": 16, "head_dim": 8}
    return TarFlow(8, 2, 1, 2, 1, codec=codec, noise=noise, **sizes).double()


def pixels_of(part):
    return torch.stack([image for image, _ in part]).double()


def one_by_one(flow, part, seed=0):
    """Log-density of each image of a part, dequantized and evaluated alone."""
    values = []
    for index, (image, context) in enumerate(part):
        source = ExampleSeeds(seed, [index])
        x = flow.noise(flow.codec.encode(image[None], source, torch.float64), source)
        label = torch.tensor([context["label"]]) if flow.num_classes else None
        values.append(flow.log_prob(x, label).item())
    return values


def assert_summary(summary, values):
    assert summary["mean"] == pytest.approx(statistics.fmean(values), rel=1e-10)
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert summary["standard_error"] == pytest.approx(error, rel=1e-8)
    normal = statistics.NormalDist(statistics.fmean(values), error)
    interval = [normal.inv_cdf(0.025), normal.inv_cdf(0.975)]
    assert summary["interval_95"] == pytest.approx(interval, rel=1e-8)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_bits_per_dim_of_every_part(split, num_classes):
    flow, data = small_flow(num_classes), fake_data()
    report = LikelihoodMetrics(split)(flow, data)
    log_probs = one_by_one(flow, getattr(data, split))
    bits = [-value / (64 * math.log(2)) + math.log2(LEVELS / 2) for value in log_probs]
    assert_summary(report.values["bits_per_dim"], bits)
    assert report.per_image["log_prob_nats"] == pytest.approx(log_probs, rel=1e-10)
    assert report.per_image["bits_per_dim"] == pytest.approx(bits, rel=1e-10)
    assert (report.values["split"], report.values["count"]) == (split, SIZES[split])
    if num_classes:
        assert report.per_image["label"] == [
            context["label"] for _, context in getattr(data, split)
        ]
    else:
        assert "label" not in report.per_image


def test_gaussian_noise_is_reported_in_nats_alone():
    flow, data = small_flow(noise=GaussianNoise(0.2)), fake_data()
    report = LikelihoodMetrics()(flow, data)
    nats = [-value / 64 for value in one_by_one(flow, data.test)]
    assert_summary(report.values["noisy_nats_per_dim"], nats)
    assert report.per_image["noisy_nats_per_dim"] == pytest.approx(nats, rel=1e-10)
    assert not [key for key in (*report.values, *report.per_image) if "bits" in key]
    assert "nats/dim at sigma 0.2" in report.rows[0]
    assert "bits" not in str(report.rows)


def test_many_noise_levels_are_drawn_for_the_images_and_told():
    flow, data = small_flow(noise=UniformLevels(0.05, 0.35)), fake_data()
    report = LikelihoodMetrics(batch_size=4)(flow, data)
    levels, log_probs = [], []
    for index, (image, _) in enumerate(data.test):
        label, source = torch.tensor([index % 3]), ExampleSeeds(0, [index])
        x, context = flow.observe(image[None], label, source, torch.float64)
        levels.append(context["noise_level"].item())
        log_probs.append(flow.log_prob(x, context).item())
    assert report.per_image["log_prob_nats"] == pytest.approx(log_probs, rel=1e-10)
    assert report.per_image["noise_level"] == pytest.approx(levels)
    nats = [-value / 64 for value in log_probs]
    assert_summary(report.values["noisy_nats_per_dim"], nats)
    assert report.rows[0][0] == "nats/dim at levels 0.05 to 0.35"
    bands = report.values["by_level"]
    lowest = [value for value, level in zip(nats, levels, strict=True) if level < 0.15]
    assert bands["levels 0.05 to 0.15"]["mean"] == pytest.approx(statistics.fmean(lowest))
    assert "bits" not in str(report.rows) + str(report.values)


def test_one_of_many_noise_levels_is_chosen():
    flow, data = small_flow(noise=UniformLevels(0.05, 0.35)), fake_data()
    report = LikelihoodMetrics(noise_level=0.1)(flow, data)
    nats = []
    for index, (image, _) in enumerate(data.test):
        noise, source = GaussianNoise(0.1), ExampleSeeds(0, [index])
        x = noise(flow.codec.encode(image[None], source, torch.float64), source)
        context = {
            "label": torch.tensor([index % 3]),
            "noise_level": torch.tensor([0.1], dtype=torch.float64),
        }
        nats.append(-flow.log_prob(x, context).item() / 64)
    assert_summary(report.values["noisy_nats_per_dim"], nats)
    assert report.rows[0][0] == "nats/dim at level 0.1"
    assert "by_level" not in report.values
    with pytest.raises(ConfigurationError, match=r"0\.5 is not one of the flow's"):
        LikelihoodMetrics(noise_level=0.5)(flow, data)
    with pytest.raises(ConfigurationError, match="no levels to choose from"):
        LikelihoodMetrics(noise_level=0.1)(small_flow(noise=GaussianNoise(0.1)), data)


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_result_does_not_depend_on_the_batch_size(batch_size):
    flow, data = small_flow(), fake_data()
    expected = LikelihoodMetrics()(flow, data)
    report = LikelihoodMetrics(batch_size=batch_size)(flow, data)
    for key in ("log_prob_nats", "bits_per_dim"):
        assert report.per_image[key] == pytest.approx(expected.per_image[key], rel=1e-12)
    for key in ("mean", "standard_error", "interval_95"):
        found, wanted = (each.values["bits_per_dim"][key] for each in (report, expected))
        assert found == pytest.approx(wanted, rel=1e-10)
    assert report.values["content_sha256"] == expected.values["content_sha256"]


def test_seed_changes_the_noise():
    flow, data = small_flow(), fake_data()
    first, again, other = (LikelihoodMetrics(seed=seed)(flow, data) for seed in (0, 0, 1))
    assert first.per_image == again.per_image
    pairs = zip(first.per_image["log_prob_nats"], other.per_image["log_prob_nats"], strict=True)
    assert all(abs(a - b) > 1e-6 for a, b in pairs)
    log_probs = one_by_one(flow, data.test, seed=1)
    assert other.per_image["log_prob_nats"] == pytest.approx(log_probs, rel=1e-10)


def test_equal_images_get_noise_of_their_own():
    images = torch.full((9, 1, 8, 8), 5, dtype=torch.uint8)
    data = fake_data(test=ArrayDataset(images, torch.zeros(9, dtype=torch.long)))
    report = LikelihoodMetrics(batch_size=4)(small_flow(), data)
    assert len(set(report.per_image["log_prob_nats"])) == 9


def test_noiseless_pixels_under_the_identity():
    data = fake_data()
    report = LikelihoodMetrics()(identity_flow(Pixels(LEVELS), GaussianNoise(0.0)), data)
    x = 2 * pixels_of(data.test) / 16 - 1
    nats = (0.5 * x.square() + 0.5 * math.log(2 * math.pi)).mean(dim=(1, 2, 3)).tolist()
    assert_summary(report.values["noisy_nats_per_dim"], nats)


def test_dequantized_pixels_under_the_identity():
    data = fake_data()
    report = LikelihoodMetrics()(identity_flow(UniformDequantization(LEVELS), NoNoise()), data)
    # The mean square of a uniform number in a cell of width w around c is c^2 + w^2 / 12.
    centres = 2 * (pixels_of(data.test) + 0.5) / LEVELS - 1
    square = centres.square().mean().item() + (2 / LEVELS) ** 2 / 12
    expected = (0.5 * square + 0.5 * math.log(2 * math.pi)) / math.log(2) + math.log2(LEVELS / 2)
    # Noise moves a dimension by at most half a cell; 704 dimensions average it out.
    assert report.values["bits_per_dim"]["mean"] == pytest.approx(expected, abs=0.01)


class Uniform(StandardNormal):
    """The uniform density on [-1, 1]."""

    def log_prob(self, z):
        outside = (z.abs() > 1).any(dim=(1, 2))
        return z.new_full((len(z),), -z[0].numel() * math.log(2)).masked_fill(outside, -torch.inf)


@pytest.mark.parametrize("levels", [2, LEVELS, 256])
def test_uniform_density_scores_the_logarithm_of_the_levels(levels):
    flow = identity_flow(UniformDequantization(levels), NoNoise())
    flow.base = Uniform(*flow.base.shape).double()
    images = torch.randint(0, levels, (11, 1, 8, 8), dtype=torch.uint8)
    data = fake_data(test=ArrayDataset(images, torch.zeros(11).long()), codec=Pixels(levels))
    bits = LikelihoodMetrics()(flow, data).values["bits_per_dim"]
    assert bits["mean"] == pytest.approx(math.log2(levels), rel=1e-12)
    assert bits["standard_error"] == pytest.approx(0, abs=1e-12)


def test_label_changes_the_likelihood():
    flow, data = small_flow(), fake_data()
    shuffled = ArrayDataset(data.test.images, (data.test.labels + 1) % 3)
    first = LikelihoodMetrics()(flow, data).per_image["log_prob_nats"]
    other = LikelihoodMetrics()(flow, fake_data(test=shuffled)).per_image["log_prob_nats"]
    assert all(abs(a - b) > 1e-6 for a, b in zip(first, other, strict=True))


def test_dropout_is_off_and_nothing_needs_a_gradient():
    data = fake_data()
    flow = small_flow(dropout=0.5).train()
    first = LikelihoodMetrics()(flow, data).per_image
    assert first == LikelihoodMetrics()(flow.train(), data).per_image
    assert all(parameter.grad is None for parameter in flow.parameters())


def test_round_trip_deviation_tells_the_precision():
    flow, data = small_flow().float(), fake_data()
    single = LikelihoodMetrics()(flow, data).values
    double = LikelihoodMetrics()(flow.double(), data).values
    assert (double["dtype"], single["dtype"]) == ("float64", "float32")
    assert 0 < double["largest_round_trip_deviation"] < 1e-12
    assert 1e-9 < single["largest_round_trip_deviation"] < 1e-4
    assert single["bits_per_dim"]["mean"] == pytest.approx(double["bits_per_dim"]["mean"])


@pytest.mark.parametrize("noise", [NoNoise(), GaussianNoise(0.1)], ids=repr)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_written_report(tmp_path, noise, num_classes):
    flow, data = small_flow(num_classes, noise), fake_data()
    path = LikelihoodMetrics(seed=4)(flow, data).write(tmp_path, tmp_path / "pretrained")
    values = json.loads(path.read_text())
    name = "bits_per_dim" if noise == NoNoise() else "noisy_nats_per_dim"
    assert values[name].keys() == {"mean", "standard_error", "interval_95"}
    keys = ("data", "split", "count", "codec", "noise", "dtype", "seed")
    found = {key: values[key] for key in keys}
    assert found == {
        "data": "fake data",
        "split": "test",
        "count": 11,
        "codec": repr(flow.codec),
        "noise": repr(noise),
        "dtype": "float64",
        "seed": 4,
    }
    with (tmp_path / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(11))
    assert_summary(values[name], [float(row[name]) for row in rows])
    assert ("label" in rows[0]) == bool(num_classes)


def test_table(capsys):
    report = LikelihoodMetrics()(small_flow(), fake_data())
    bits = report.values["bits_per_dim"]
    capsys.readouterr()
    report.print()
    printed = capsys.readouterr().out
    assert "11 test images of fake data" in printed
    [line] = [line for line in printed.splitlines() if "bits/dim" in line]
    assert f"{bits['mean']:.4f}" in line
    assert f"{bits['standard_error']:.4f}" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (3, 8, 8)}, r"image shape \(3, 8, 8\), but .* made for \(1, 8, 8\)"),
        ({"shape": (1, 8, 4)}, r"image shape \(1, 8, 4\), but .* made for \(1, 8, 8\)"),
        ({"codec": Pixels(256)}, "levels 256, but the flow was made for 17"),
        ({"num_classes": 4}, "number of classes 4, but the flow was made for 3"),
        ({"num_classes": 0}, "number of classes 0, but the flow was made for 3"),
    ],
)
def test_other_data_is_refused(changes, message):
    with pytest.raises(DataError, match=f"fake data has {message}"):
        LikelihoodMetrics()(small_flow(), fake_data(**changes))


def test_missing_part():
    with pytest.raises(DataError, match=r"has no validation part: set data\.validation_fraction"):
        LikelihoodMetrics("validation")(small_flow(), fake_data(validation=None))


def test_flow_that_names_no_noise():
    with pytest.raises(DataError, match=r"does not name the noise .*noise_std=\.\.\."):
        LikelihoodMetrics()(small_flow(noise=None), fake_data())


def test_density_that_is_not_finite():
    flow = small_flow()
    with torch.no_grad():
        flow.transform[1].network.proj_out.bias.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="transform 1 is not finite"):
        LikelihoodMetrics()(flow, fake_data())


def test_images_without_a_finite_density_are_left_out_and_counted():
    flow, data = small_flow(), fake_data()
    whole = LikelihoodMetrics()(flow, data).per_image["log_prob_nats"]
    with torch.no_grad():
        flow.transform[1].label_embedding.weight[1] = math.nan
    report = LikelihoodMetrics(batch_size=4)(flow, data)
    fine = [context["label"] != 1 for _, context in data.test]
    found = report.per_image["log_prob_nats"]
    assert [math.isfinite(value) for value in found] == fine
    kept = [value for value, good in zip(whole, fine, strict=True) if good]
    assert [value for value in found if math.isfinite(value)] == pytest.approx(kept, rel=1e-10)
    assert report.values["non_finite"] == fine.count(False) > 0
    bits = [-value / (64 * math.log(2)) + math.log2(LEVELS / 2) for value in kept]
    assert_summary(report.values["bits_per_dim"], bits)
    assert ("images left out, not finite", str(fine.count(False)), "", "") in report.rows


def test_bound_by_several_draws_is_the_mean_density():
    flow, data = small_flow(), fake_data()
    report = LikelihoodMetrics(importance_samples=3, batch_size=4)(flow, data)
    headline = LikelihoodMetrics()(flow, data)
    assert report.per_image["bits_per_dim"] == headline.per_image["bits_per_dim"]
    assert "bits_per_dim_bound" not in headline.values
    expected = []
    for index, (image, context) in enumerate(data.test):
        source, label = ExampleStreams(0, [index]), torch.tensor([context["label"]])
        draws = [flow.codec.encode(image[None], source, torch.float64) for _ in range(3)]
        densities = [flow.log_prob(x, label).item() for x in draws]
        mean = math.log(statistics.fmean(math.exp(value - max(densities)) for value in densities))
        bits = -(mean + max(densities)) / (64 * math.log(2)) + math.log2(LEVELS / 2)
        expected.append(bits)
    assert report.per_image["bits_per_dim_bound"] == pytest.approx(expected, rel=1e-10)
    assert_summary(report.values["bits_per_dim_bound"], expected)
    assert report.values["bits_per_dim_bound"]["mean"] < report.values["bits_per_dim"]["mean"]


def test_bits_of_noisy_data_are_refused():
    flow, data = small_flow(noise=GaussianNoise(0.2)), fake_data()
    with pytest.raises(ConfigurationError, match=r"not one of pixels.* Leave unit=bits out"):
        LikelihoodMetrics(unit="bits")(flow, data)
    with pytest.raises(ConfigurationError, match="Leave importance_samples out"):
        LikelihoodMetrics(importance_samples=2)(flow, data)


def test_nats_of_dequantized_pixels():
    flow, data = small_flow(), fake_data()
    report = LikelihoodMetrics(unit="nats")(flow, data)
    assert_summary(report.values["nats_per_dim"], [-v / 64 for v in one_by_one(flow, data.test)])


@pytest.mark.parametrize("name", ["batch_size", "importance_samples"])
def test_counts_below_one(name):
    with pytest.raises(ConfigurationError, match=f"{name} 0 must be at least 1"):
        LikelihoodMetrics(**{name: 0})


def test_empty_part():
    empty = ArrayDataset(torch.empty(0, 1, 8, 8, dtype=torch.uint8), torch.empty(0).long())
    with pytest.raises(DataError, match="the test part of fake data is empty"):
        LikelihoodMetrics()(small_flow(), fake_data(test=empty))


def test_content_tells_images_and_labels():
    data = fake_data()
    pixels, labels = data.test.images, data.test.labels
    changed = pixels.clone()
    changed[3, 0, 2, 2] ^= 1
    variants = [(pixels, labels), (changed, labels), (pixels, labels.flip(0))]
    hashes = [
        LikelihoodMetrics()(small_flow(), fake_data(test=ArrayDataset(*variant))).values
        for variant in variants
    ]
    assert len({values["content_sha256"] for values in hashes}) == 3


def test_workers_read_the_images(tmp_path):
    part, flow = random_part(40, 3, (1, 8, 8)), small_flow()
    metrics = LikelihoodMetrics(batch_size=10)
    noted = Noted(part.images, part.labels).note(tmp_path / "noted")
    data = fake_data(test=noted)
    expected = metrics(flow, data)
    noted.path.unlink()
    work = Kept(tmp_path / "values", {}, num_workers=2)
    report = metrics.evaluate(flow, data, lambda name: work)
    assert report is not None
    assert (report.values, report.per_image) == (expected.values, expected.per_image)
    readers = noted.path.read_text().split()
    assert sum(pid != str(os.getpid()) for pid in readers) == 40
    assert len(set(readers)) == 2


class Damaged(ArrayDataset):
    """Images of which two cannot be read."""

    def __getitems__(self, indices):
        if found := sorted({3, 21}.intersection(indices)):
            raise DataError(f"{found[0]}.png is truncated")
        return super().__getitems__(indices)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_that_cannot_be_read_are_counted_and_left_out(tmp_path, num_workers):
    part, flow = random_part(40, 3, (1, 8, 8)), small_flow()
    whole = LikelihoodMetrics()(flow, fake_data(test=part))
    data = fake_data(test=Damaged(part.images, part.labels))
    hashes = set()
    for batch_size in (1, 8, 40):
        work = Kept(tmp_path / str(batch_size), {}, num_workers=num_workers)
        metrics = LikelihoodMetrics(batch_size=batch_size)
        report = metrics.evaluate(flow, data, lambda name, work=work: work)
        assert report is not None
        assert (report.values["unreadable"], report.values["non_finite"]) == (2, 0)
        found, expected = (each.per_image["log_prob_nats"] for each in (report, whole))
        assert [math.isnan(value) for value in found] == [n in (3, 21) for n in range(40)]
        kept = [n for n in range(40) if n not in (3, 21)]
        assert [found[n] for n in kept] == pytest.approx([expected[n] for n in kept])
        bits = [whole.per_image["bits_per_dim"][n] for n in kept]
        assert report.values["bits_per_dim"]["mean"] == pytest.approx(statistics.mean(bits))
        assert ("images left out, unreadable", "2", "", "") in report.rows
        assert report.per_image["label"][20:23] == [2, -1, 1]
        hashes.add(report.values["content_sha256"])
    assert len(hashes) == 1
