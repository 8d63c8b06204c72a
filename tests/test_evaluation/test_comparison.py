"""Two flows compared image by image."""

import math
import statistics

import pytest
import torch

from tarflow import DataError, GaussianNoise
from tarflow.evaluation import LikelihoodMetrics, compare_likelihoods

from ..models import randomized
from .test_likelihood import fake_data, small_flow


def test_difference_of_two_flows():
    data, flow = fake_data(), small_flow()
    baseline = LikelihoodMetrics()(flow, data)
    report = LikelihoodMetrics()(randomized(flow, 0.01), data)
    comparison = compare_likelihoods(report, baseline)
    pairs = zip(report.per_image["bits_per_dim"], baseline.per_image["bits_per_dim"], strict=True)
    differences = [ours - theirs for ours, theirs in pairs]
    assert comparison.per_image["bits_per_dim_difference"] == differences
    summary = comparison.values["bits_per_dim_difference"]
    assert summary["mean"] == pytest.approx(statistics.fmean(differences), rel=1e-10)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    assert summary["standard_error"] == pytest.approx(error, rel=1e-8)
    # what images have in common cancels
    assert error < 0.5 * baseline.values["bits_per_dim"]["standard_error"]
    share = sum(difference < 0 for difference in differences) / len(differences)
    assert comparison.values["better_share"] == share


def test_a_flow_equals_itself():
    data, flow = fake_data(), small_flow(noise=GaussianNoise(0.1))
    report = LikelihoodMetrics()(flow, data)
    summary = compare_likelihoods(report, report).values["noisy_nats_per_dim_difference"]
    assert summary == {"mean": 0, "standard_error": 0, "interval_95": [0, 0]}


def test_images_that_are_not_finite_in_one_are_left_out():
    data, flow = fake_data(), small_flow()
    baseline = LikelihoodMetrics()(flow, data)
    with torch.no_grad():
        flow.transform[1].label_embedding.weight[1] = math.nan
    comparison = compare_likelihoods(LikelihoodMetrics()(flow, data), baseline)
    assert comparison.values["compared"] == sum(context["label"] != 1 for _, context in data.test)


@pytest.mark.parametrize(
    ("options", "noise", "key"),
    [
        ({"split": "train"}, 0.1, "split"),
        ({"seed": 1}, 0.1, "seed"),
        ({}, 0.2, "noise"),
    ],
)
def test_what_differs_in_more_than_the_flow_is_refused(options, noise, key):
    data = fake_data()
    one = LikelihoodMetrics()(small_flow(noise=GaussianNoise(0.1)), data)
    other = LikelihoodMetrics(**options)(small_flow(noise=GaussianNoise(noise)), data)
    with pytest.raises(DataError, match=f"{key} is .* in one and .* in the other"):
        compare_likelihoods(one, other)


def test_other_images_are_refused():
    flow = small_flow()
    one, other = (LikelihoodMetrics()(flow, fake_data()) for _ in range(2))
    with pytest.raises(DataError, match="content_sha256"):
        compare_likelihoods(one, other)


def test_other_units_are_refused():
    data, flow = fake_data(), small_flow()
    one, other = (LikelihoodMetrics(unit=unit)(flow, data) for unit in ("bits", "nats"))
    with pytest.raises(DataError, match="units differ"):
        compare_likelihoods(one, other)
