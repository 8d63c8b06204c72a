"""The bisection: what it returns is within the tolerance, and the next threshold is not."""

import math

import pytest
import torch

from tarflow import ConfigurationError, NoNoise, UniformDequantization, UniformLevels
from tarflow.compression import Skeletons, measure
from tarflow.compression.search import Bisection, SomeImages, likelihoods
from tarflow.data import random_images
from tests.models import tiny_flow

DATA = random_images(num_train=40, num_test=4, image_size=4, num_channels=2, num_classes=3)


@pytest.mark.parametrize("noise", [NoNoise(), UniformLevels(0.1, 0.5)])
def test_the_largest_threshold_within_the_tolerance_is_found(noise):
    flow = tiny_flow(num_classes=3, codec=UniformDequantization(256), noise=noise).double().eval()
    images = SomeImages(DATA.train, 30, 16, seed=1)
    assert [len(x) for x, _ in images.batches(flow)] == [16, 14]
    assert torch.equal(likelihoods(flow, images), likelihoods(flow, images))
    skeletons, tried = Skeletons.of(flow, measure(flow, images.batches(flow))), []
    found = Bisection(images, 1e-6)(skeletons, tried.append)
    assert found in tried
    assert found.rise <= 1e-6
    rise = (likelihoods(found.flow, images) - likelihoods(flow, images)).mean()
    assert float(rise) == pytest.approx(found.rise)
    above = [each for each in tried if each.threshold > found.threshold]
    assert above
    assert all(each.rise > 1e-6 for each in above)
    assert tried[0].threshold == 0
    assert abs(tried[0].rise) < 1e-12


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_wrong_tolerances_are_refused(tolerance):
    with pytest.raises(ConfigurationError, match="must be finite and not negative"):
        Bisection(SomeImages(DATA.train, 3, 3), tolerance)
