"""Sampling against a loop written from the equations, with and without guidance."""

import dataclasses
import math

import pytest
import torch

from tarflow import (
    Affine,
    ConfigurationError,
    ContextError,
    DecodeOptions,
    ExampleSeeds,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
    Sequential,
    SoftplusScale,
    SplineScale,
    TarFlow,
    UnitScale,
)
from tarflow.flows.decoding import DecodeKeywords

from . import equations
from .models import tiny_flow

LINEAR = LinearSchedule()


def linear(weight, rising=False, on_log_scale=True, on_shift=True):
    """TarFlow's rule; rules give a scale and a shift."""

    def rule(log_scale, shift, null_log_scale, null_shift, progress):
        w = weight * (progress if rising else 1)
        guided_log_scale = log_scale + w * (log_scale - null_log_scale)
        guided_shift = shift + w * (shift - null_shift)
        return (
            (guided_log_scale if on_log_scale else log_scale).exp(),
            guided_shift if on_shift else shift,
        )

    return rule


def linear_scale(weight, rising=False, on_scale=True, on_shift=True):
    """iTARFlow's rule."""

    def rule(log_scale, shift, null_log_scale, null_shift, progress):
        w = weight * (progress if rising else 1)
        scale, null_scale = log_scale.exp(), null_log_scale.exp()
        guided_scale = scale + w * (scale - null_scale)
        guided_shift = shift + w * (shift - null_shift)
        return guided_scale if on_scale else scale, guided_shift if on_shift else shift

    return rule


def gaussian(weight, rising=False):
    """STARFlow's rule."""

    def rule(log_scale, shift, null_log_scale, null_shift, progress):
        w = weight * (progress if rising else 1)
        s = (log_scale.exp() ** 2 / null_log_scale.exp() ** 2).clamp(max=1)
        denominator = 1 + w - w * s
        sigma = log_scale.exp() / denominator.sqrt()
        return sigma, ((1 + w) * shift - w * s * null_shift) / denominator

    return rule


NEGATIVE = linear_scale(90.0, on_shift=False)
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
    "scale": (LinearScaleGuidance(1.5), linear_scale(1.5)),
    "scale, rising": (LinearScaleGuidance(2.0, schedule=LINEAR), linear_scale(2.0, rising=True)),
    "scale alone": (LinearScaleGuidance(1.5, on_shift=False), linear_scale(1.5, on_shift=False)),
    "shift alone": (LinearScaleGuidance(1.5, on_scale=False), linear_scale(1.5, on_scale=False)),
    "negative scales": (LinearScaleGuidance(90.0, on_shift=False, depths=[0]), NEGATIVE),
    "gaussian": (GaussianGuidance(2.0), gaussian(2.0)),
    "gaussian, temperature": (GaussianGuidance(2.1, temperature=1.5), gaussian(2.1)),
    "gaussian, rising": (GaussianGuidance(2.0, schedule=LINEAR), gaussian(2.0, rising=True)),
    "gaussian at all depths": (GaussianGuidance(2.0, depths=None), gaussian(2.0)),
    "one transform, temperature": (LinearScaleGuidance(1.5, 0.3, depths=[1]), linear_scale(1.5)),
    "last transform": (LinearGuidance(1.5, depths=[2]), linear(1.5)),
    "two transforms": (LinearScaleGuidance(1.5, depths=[2, 0]), linear_scale(1.5)),
}


@dataclasses.dataclass(frozen=True)
class Annihilating(LinearScaleGuidance):
    """Has a scale be exactly zero in the second example."""

    def __call__(self, conditional: Affine, null: Affine, weight: torch.Tensor) -> Affine:
        log_scale = null.log_scale.clone()
        log_scale[1, -1, 0] = conditional.log_scale[1, -1, 0] + math.log(2)
        return super().__call__(conditional, Affine(log_scale, null.shift), weight)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def rules(request):
    """A guidance of the library, and the same written from its equation."""
    return request.param


def expected_sample(flow, z, label, guidance, rule):
    """What the equations say."""
    temperature = 1.0 if guidance is None else guidance.temperature
    depths = range(99) if guidance is None or guidance.depths is None else guidance.depths
    return equations.sample(flow, z, label, rule, temperature, depths)


@pytest.mark.parametrize("grad", [True, False])
def test_sequential_decoding_is_that_of_the_equations(flow, z, y, rules, grad):
    guidance, rule = rules
    with torch.set_grad_enabled(grad):
        x = flow.inverse(z, y, guidance=guidance)
    torch.testing.assert_close(x, expected_sample(flow, z, y, guidance, rule), rtol=0, atol=1e-10)


RULES = {
    LinearGuidance: linear,
    LinearScaleGuidance: linear_scale,
    GaussianGuidance: gaussian,
}


@pytest.mark.parametrize("depths", [[0], [1, 2], None])
@pytest.mark.parametrize("guidance_type", RULES)
def test_without_classes_the_temperature_guides(unconditional, z, guidance_type, depths):
    guidance = guidance_type(0.5, 0.25, schedule=LINEAR, depths=depths)
    rule = RULES[guidance_type](0.5, rising=True)
    null = torch.full((4,), -1)
    x = unconditional.inverse(z, guidance=guidance)
    expected = expected_sample(unconditional, z, null, guidance, rule)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("guidance", [None, *(rule(1.5, depths=None) for rule in RULES)], ids=str)
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


SUBSETS = [(LinearScaleGuidance(90.0, on_shift=False, depths=[0]), {0})]
SUBSETS += [(LinearGuidance(1.0, depths=[1]), {1}), (GaussianGuidance(1.0, depths=[2, 1]), {1, 2})]


@pytest.mark.parametrize(("guidance", "depths"), SUBSETS)
def test_a_rule_acts_on_its_transforms_alone(flow, z, y, guidance, depths):
    expected = [[8 if depth in depths else 4] * 3 for depth in (2, 1, 0)]
    assert rows_per_transform(flow, z, y, guidance) == expected


@pytest.mark.parametrize("window", [2, 3])
def test_windows_decode_negative_scales(flow, z, y, window):
    guidance = LinearScaleGuidance(90.0, on_shift=False, depths=[0])
    sequential = flow.decode(z, y, guidance=guidance)
    inverse = flow.decode(z, y, guidance=guidance, decoder=Jacobi(window, 1e-12))
    torch.testing.assert_close(inverse.x, sequential.x, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse.log_det, sequential.log_det, rtol=0, atol=1e-10)


@pytest.mark.parametrize("depths", [[3], [0, 7]])
def test_depths_that_the_flow_lacks_are_refused(flow, z, y, depths):
    with pytest.raises(ConfigurationError, match=rf"depth {depths[-1]}, but the flow has 3 auto"):
        flow.inverse(z, y, guidance=LinearGuidance(1.0, depths=depths))


def test_guidance_where_nothing_reads_the_label_is_refused(z, y):
    flow = tiny_flow(num_classes=3, conditioned=(True, False, True)).double()
    with pytest.raises(ContextError, match="let it act where the flow reads that"):
        flow.inverse(z, y, guidance=LinearGuidance(1.0, depths=[1]))
    assert rows_per_transform(flow, z, y, LinearGuidance(1.0)) == [[8] * 3, [4] * 3, [8] * 3]
    tempered = LinearGuidance(1.0, temperature=0.5, depths=[1])
    assert rows_per_transform(flow, z, y, tempered) == [[4] * 3, [8] * 3, [4] * 3]


def test_a_scale_of_zero_is_not_finite_and_is_told_of(flow, z, y):
    guidance = Annihilating(1.0)
    with pytest.warns(RuntimeWarning, match="1 of 4 examples are not finite.*lower the guidance"):
        inverse = flow.decode(z, y, guidance=guidance)
    assert inverse.finite.tolist() == [True, False, True, True]
    windowed = flow.attempt(z, y, guidance=guidance, decoder=Jacobi(3, 1e-9))
    assert windowed.finite.tolist() == [True, False, True, True]
    assert windowed.x[1].isnan().all()


@pytest.mark.parametrize("guidance", [None, LinearGuidance(0.0), LinearScaleGuidance(0.0)])
def test_weight_zero_runs_no_null_pass(flow, z, y, guidance):
    assert rows_per_transform(flow, z, y, guidance) == [[4] * 3] * 3


def test_linear_guidance_runs_a_null_pass_in_every_transform(flow, z, y):
    assert rows_per_transform(flow, z, y, LinearGuidance(1.0)) == [[8] * 3] * 3


def test_gaussian_guidance_runs_a_null_pass_in_the_deepest_transform_only(flow, z, y):
    assert rows_per_transform(flow, z, y, GaussianGuidance(1.0)) == [[4] * 3, [4] * 3, [8] * 3]


@pytest.mark.parametrize("guidance_type", [LinearGuidance, LinearScaleGuidance, GaussianGuidance])
def test_weight_zero_is_no_guidance(flow, z, y, guidance_type):
    assert torch.equal(flow.inverse(z, y, guidance=guidance_type(0.0)), flow.inverse(z, y))


@pytest.mark.parametrize("scale", [UnitScale(), SoftplusScale(), SplineScale(3)])
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
