"""Samples by their index, as pixels."""

import json

import numpy as np
import pytest
import torch

from tarflow import (
    ConfigurationError,
    DecodeOptions,
    ExampleSeeds,
    GaussianNoise,
    Jacobi,
    LinearGuidance,
    NoNoise,
    Pixels,
    UniformDequantization,
    denoise,
)
from tarflow.nn.networks import Networks
from tarflow.sampling.drawing import sample_batches
from tarflow.sampling.flow_sampler import FlowSampler

from .memory import limit_memory
from .models import tiny_flow

CODEC = Pixels(17)

CERTIFICATES = ("why", "residual", "certified", "redone")


def assert_same(found, expected):
    """The same samples; residuals are rounding errors, and those depend on the batch."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        if name == "residual":
            assert np.abs(array - expected[name]).max() < 1e-14
        else:
            assert np.array_equal(array, expected[name])


@pytest.fixture
def noisy():
    """A flow with classes that knows its codec and Gaussian noise, in float64."""
    return tiny_flow(num_classes=3, codec=CODEC, noise=GaussianNoise(0.3)).double()


def test_samples_are_those_of_the_flow_as_pixels(noisy):
    sampler = FlowSampler(
        noisy, 5, torch.tensor([2, 0]), options=DecodeOptions(LinearGuidance(1.0))
    )
    label = torch.tensor([0, 2, 0])
    source = ExampleSeeds(5, range(3, 6))
    x = noisy.sample(3, label, guidance=LinearGuidance(1.0), source=source)
    found = sampler(range(3, 6))
    assert list(found) == ["samples", "denoised", *CERTIFICATES, "labels"]
    assert found["samples"].dtype == np.uint8
    assert np.array_equal(found["samples"], CODEC.decode(x))
    assert np.array_equal(found["denoised"], CODEC.decode(denoise(noisy, x, label)))
    assert np.array_equal(found["labels"], label)


def test_what_is_not_asked_for_is_not_made(noisy):
    assert list(FlowSampler(noisy, denoise=False)(range(2))) == ["samples", *CERTIFICATES]
    sampler = FlowSampler(tiny_flow(codec=UniformDequantization(17), noise=NoNoise()))
    assert list(sampler(range(2))) == ["samples", *CERTIFICATES]
    assert sampler.settings["denoise"] is False


def test_indices_far_out_are_the_same_in_any_batch(noisy):
    sampler = FlowSampler(noisy, classes=torch.arange(3))
    many, one = sampler(range(1000, 1005)), sampler(range(1003, 1004))
    assert_same(one, {name: array[3:4] for name, array in many.items()})


def test_memory_runs_out_once_for_sampling_and_denoising(noisy):
    sampler = FlowSampler(noisy, classes=torch.arange(3))
    expected = sampler(range(4))
    limit_memory(noisy, 2)
    with pytest.warns(RuntimeWarning, match="going on with 2") as caught:
        found = sampler(range(4))
    assert len(caught) == 2  # what fits one need not fit the other
    sampler(range(4, 8))
    assert_same(found, expected)


def test_bytes_of_a_sample(noisy):
    arrays = FlowSampler(noisy)(range(1))
    size = sum(arrays[name].nbytes for name in ("samples", "denoised"))
    assert FlowSampler(noisy).bytes_per_sample == size == 2 * 2 * 4 * 4
    assert FlowSampler(noisy, denoise=False).bytes_per_sample == 2 * 4 * 4
    many_levels = tiny_flow(codec=Pixels(1000))
    assert FlowSampler(many_levels).bytes_per_sample == 4 * 2 * 4 * 4


def test_settings_tell_all_that_a_sample_depends_on(noisy):
    plain = FlowSampler(noisy).settings
    assert json.loads(json.dumps(plain)) == plain
    others = [
        FlowSampler(noisy, 1),
        FlowSampler(noisy, classes=torch.tensor([1])),
        FlowSampler(noisy, denoise=False),
        FlowSampler(noisy, options=DecodeOptions(LinearGuidance(1.0))),
        FlowSampler(noisy, options=DecodeOptions(LinearGuidance(1.0, temperature=2.0))),
        FlowSampler(noisy, options=DecodeOptions(dtype=torch.bfloat16)),
        FlowSampler(noisy, options=DecodeOptions(decoder=Jacobi())),
    ]
    texts = {json.dumps(sampler.settings) for sampler in others} | {json.dumps(plain)}
    assert len(texts) == len(others) + 1
    assert FlowSampler(noisy, options=DecodeOptions(compile=True)).settings == plain


def test_the_precision_is_that_of_denoising_too(noisy):
    sampler = FlowSampler(noisy, options=DecodeOptions(dtype=torch.bfloat16))
    drawn = noisy.sample_with_report(2)
    noisy.sample_with_report = lambda *arguments, **options: drawn
    with pytest.raises(ConfigurationError, match=r"cannot denoise in torch.bfloat16"):
        sampler(range(2))


def test_weights_are_made_ready_once(noisy, monkeypatch):
    prepare, made = Networks._prepare, []

    def counted(self, network):
        made.append(self.dtype)
        return prepare(self, network)

    monkeypatch.setattr(Networks, "_prepare", counted)
    sampler = FlowSampler(noisy.float(), options=DecodeOptions(dtype=torch.bfloat16))
    sampler(range(2))
    assert made.count(torch.bfloat16) == 3  # one for each transform
    made.clear()
    found = sampler(range(2, 4))
    assert made == []
    source = ExampleSeeds(0, range(2, 4))
    x = noisy.sample(2, source=source, dtype=torch.bfloat16)
    assert np.array_equal(found["samples"], CODEC.decode(x))
    made.clear()
    batches = list(sample_batches(noisy, 4, None, 0, 2, dtype=torch.bfloat16))
    assert made.count(torch.bfloat16) == 3
    assert torch.equal(batches[1][0], x)


def test_a_flow_that_does_not_know_its_codec():
    with pytest.raises(ConfigurationError, match="does not name the codec"):
        FlowSampler(tiny_flow())(range(2))
