"""Sampling against a loop written from the equations, with and without guidance."""

import dataclasses

import pytest
import torch

from tarflow import (
    ContextError,
    DecodeOptions,
    ExampleSeeds,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    LinearSchedule,
    Sequential,
    SoftplusScale,
    TarFlow,
    UnitScale,
)
from tarflow.flows.decoding import DecodeKeywords

from . import equations
from .models import tiny_flow

LINEAR = LinearSchedule()


def linear(weight, rising=False, on_log_scale=True, on_shift=True):
    """TarFlow's rule."""

    def rule(log_scale, shift, null_log_scale, null_shift, progress):
        w = weight * (progress if rising else 1)
        guided_log_scale = log_scale + w * (log_scale - null_log_scale)
        guided_shift = shift + w * (shift - null_shift)
        return (
            guided_log_scale if on_log_scale else log_scale,
            guided_shift if on_shift else shift,
        )

    return rule


def gaussian(weight):
    """STARFlow's rule."""

    def rule(log_scale, shift, null_log_scale, null_shift, progress):
        s = (log_scale.exp() ** 2 / null_log_scale.exp() ** 2).clamp(max=1)
        denominator = 1 + weight - weight * s
        sigma = log_scale.exp() / denominator.sqrt()
        return sigma.log(), ((1 + weight) * shift - weight * s * null_shift) / denominator

    return rule


CASES = {
    "unguided": (None, None),
    "constant": (LinearGuidance(1.5), linear(1.5)),
    "weight no float32 holds": (LinearGuidance(0.7), linear(0.7)),
    "rising": (LinearGuidance(2.0, schedule=LINEAR), linear(2.0, rising=True)),
    "rising 0.7": (LinearGuidance(0.7, schedule=LINEAR), linear(0.7, rising=True)),
    "log-scale": (LinearGuidance(1.5, on_shift=False), linear(1.5, on_shift=False)),
    "shift": (LinearGuidance(1.5, on_log_scale=False), linear(1.5, on_log_scale=False)),
    "temperature": (LinearGuidance(0.5, temperature=0.25), linear(0.5)),
    "temperature 0.3": (LinearGuidance(0.5, temperature=0.3), linear(0.5)),
    "gaussian": (GaussianGuidance(2.0), gaussian(2.0)),
    "gaussian, temperature": (GaussianGuidance(2.1, temperature=1.5), gaussian(2.1)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def rules(request):
    """A guidance of the library, and the same written from its equation."""
    return request.param


def expected_sample(flow, z, label, guidance, rule):
    """What the equations say."""
    temperature = 1.0 if guidance is None else guidance.temperature
    deepest_only = isinstance(guidance, GaussianGuidance)
    return equations.sample(flow, z, label, rule, temperature, deepest_only)


@pytest.mark.parametrize("grad", [True, False])
def test_sequential_decoding_is_that_of_the_equations(flow, z, y, rules, grad):
    guidance, rule = rules
    with torch.set_grad_enabled(grad):
        x = flow.inverse(z, y, guidance=guidance)
    torch.testing.assert_close(x, expected_sample(flow, z, y, guidance, rule), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "guidance", [None, LinearGuidance(0.5, 0.25), GaussianGuidance(0.5, 0.25)]
)
def test_without_classes_the_temperature_guides(unconditional, z, guidance):
    rules = {LinearGuidance: linear, GaussianGuidance: gaussian}
    rule = None if guidance is None else rules[type(guidance)](0.5)
    null = torch.full((4,), -1)
    x = unconditional.inverse(z, guidance=guidance)
    expected = expected_sample(unconditional, z, null, guidance, rule)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("guidance", [None, LinearGuidance(1.5), GaussianGuidance(1.5)])
def test_guidance_of_an_example_does_not_depend_on_the_others(flow, z, y, guidance):
    together = flow.inverse(z, y, guidance=guidance)
    alone = [flow.inverse(z[i : i + 1], y[i : i + 1], guidance=guidance) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-12)


def rows_per_transform(flow: TarFlow, z, y, guidance) -> list[list[int]]:
    """The numbers of rows that each transform's network sees while decoding, data side first."""
    decoded = [transform for transform in flow.transform if transform.num_decoded]
    rows = [[] for _ in decoded]
    for seen, transform in zip(rows, decoded, strict=True):
        transform.network.register_forward_pre_hook(
            lambda _, arguments, seen=seen: seen.append(len(arguments[0]))
        )
    with torch.no_grad():
        flow.inverse(z, y, guidance=guidance)
    return rows


@pytest.mark.parametrize("guidance", [None, LinearGuidance(0.0), GaussianGuidance(0.0)])
def test_weight_zero_runs_no_null_pass(flow, z, y, guidance):
    assert rows_per_transform(flow, z, y, guidance) == [[4] * 3] * 3


def test_linear_guidance_runs_a_null_pass_in_every_transform(flow, z, y):
    assert rows_per_transform(flow, z, y, LinearGuidance(1.0)) == [[8] * 3] * 3


def test_gaussian_guidance_runs_a_null_pass_in_the_deepest_transform_only(flow, z, y):
    assert rows_per_transform(flow, z, y, GaussianGuidance(1.0)) == [[4] * 3, [4] * 3, [8] * 3]


@pytest.mark.parametrize("guidance_type", [LinearGuidance, GaussianGuidance])
def test_weight_zero_is_no_guidance(flow, z, y, guidance_type):
    assert torch.equal(flow.inverse(z, y, guidance=guidance_type(0.0)), flow.inverse(z, y))


@pytest.mark.parametrize("scale", [UnitScale(), SoftplusScale()])
def test_guided_decoding_holds_for_other_scales(z, y, scale):
    flow = tiny_flow(num_classes=3, scale=scale).double()
    towards_null = LinearGuidance(1.0)
    x = flow.inverse(z, y, guidance=towards_null)
    null = torch.full_like(y, -1)
    unguided, guided_null = flow.inverse(z, null), flow.inverse(z, null, guidance=towards_null)
    torch.testing.assert_close(guided_null, unguided, rtol=0, atol=1e-12)
    torch.testing.assert_close(x[2], unguided[2], rtol=0, atol=1e-12)
    assert not torch.allclose(x[0], flow.inverse(z, y)[0])


def test_a_sequence_of_one_position_is_the_identity():
    flow = tiny_flow(image_size=2, patch_size=2).double()
    z = torch.randn(3, 1, 8, dtype=torch.float64)
    x = flow.inverse(z, guidance=LinearGuidance(1.0, temperature=0.5))
    assert torch.equal(x.flatten(), z.flatten())
    assert torch.equal(flow(x)[0], z)
    assert not flow(x)[1].any()


def test_depth_counts_what_was_decoded():
    options = DecodeOptions(GaussianGuidance(1.0))
    assert options.rule == GaussianGuidance(1.0)
    assert options.deeper(0).rule == GaussianGuidance(1.0)
    assert options.deeper(1).rule is None


def test_keywords_are_the_options():
    fields = {field.name: field.type for field in dataclasses.fields(DecodeOptions)}
    assert fields.pop("depth") is int  # which compositions count
    assert fields == DecodeKeywords.__annotations__


def test_options_and_keywords_say_the_same(flow):
    def draw(**keywords):
        return flow.sample(3, 1, source=ExampleSeeds(0, range(3)), **keywords)

    guidance, decoder = LinearGuidance(0.5), Jacobi(2, 1e-9)
    options = DecodeOptions(guidance=guidance, decoder=decoder)
    expected = draw(guidance=guidance, decoder=decoder)
    assert torch.equal(draw(options=options), expected)
    assert torch.equal(draw(options=DecodeOptions(guidance), decoder=decoder), expected)
    assert torch.equal(draw(options=options, guidance=None, decoder=Sequential()), draw())
    with pytest.raises(TypeError, match="window"):
        draw(window=2)


def test_guidance_with_nothing_to_guide_is_refused(flow, z):
    with pytest.raises(ContextError, match="null prediction"):
        flow.inverse(z, guidance=LinearGuidance(1.0))
    with pytest.raises(ContextError, match="null prediction"):
        flow.sample(2, guidance=GaussianGuidance(1.0))


def test_guidance_without_classes_needs_a_temperature(unconditional, z):
    with pytest.raises(ContextError, match="attention temperature"):
        unconditional.inverse(z, guidance=LinearGuidance(1.0))
    unconditional.inverse(z, guidance=LinearGuidance(0.0))
