"""The rules of guidance."""

import math

import pytest
import torch

from tarflow import (
    Affine,
    ConfigurationError,
    ConstantSchedule,
    GaussianGuidance,
    Guidance,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
)

POSITION = torch.arange(4.0, dtype=torch.float64)
GUIDANCES = pytest.mark.parametrize(
    "guidance_type", [LinearGuidance, LinearScaleGuidance, GaussianGuidance]
)


@pytest.fixture
def conditional() -> Affine:
    """Conditional maps at positions 1, 2, 3 of a sequence of 4, for two examples."""
    return Affine(*torch.randn(2, 2, 3, 5, dtype=torch.float64))


@pytest.fixture
def null() -> Affine:
    """Null maps at the same positions."""
    return Affine(*torch.randn(2, 2, 3, 5, dtype=torch.float64))


def wider(null: Affine, conditional: Affine) -> Affine:
    """The null maps, with scales no smaller than the conditional ones: no ratio is clipped."""
    return Affine(torch.maximum(null.log_scale, conditional.log_scale), null.shift)


def apply(guidance: Guidance, conditional: Affine, null: Affine) -> Affine:
    """The rule at positions 1, 2, 3, in the dtype of the predictions."""
    weights = guidance.weights(POSITION.to(conditional.shift.dtype))
    return guidance(conditional, null, weights[1:, None])


def score(affine: Affine, x: torch.Tensor) -> torch.Tensor:
    """The score of the Gaussian of this mean and scale."""
    return (affine.shift - x) / torch.exp(2 * affine.log_scale)


def test_schedules_follow_their_formulas():
    assert ConstantSchedule()(1.5, POSITION).tolist() == [1.5, 1.5, 1.5, 1.5]
    assert LinearSchedule()(1.5, POSITION).tolist() == [0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("on_log_scale", "on_shift"), [(True, True), (True, False), (False, True)]
)
def test_linear_guidance_extrapolates(conditional, null, on_log_scale, on_shift):
    guidance = LinearGuidance(1.5, 1.0, LinearSchedule(), on_log_scale, on_shift)
    guided = apply(guidance, conditional, null)
    weight = torch.tensor([[0.5], [1.0], [1.5]], dtype=torch.float64)
    for name, acts in (("log_scale", on_log_scale), ("shift", on_shift)):
        c, n = getattr(conditional, name), getattr(null, name)
        torch.testing.assert_close(getattr(guided, name), c + weight * (c - n) if acts else c)


@pytest.mark.parametrize("weight", [0.3, 1.0, 7.0])
def test_gaussian_guidance_has_the_guided_score(conditional, null, weight):
    null = wider(null, conditional)
    guided = apply(GaussianGuidance(weight), conditional, null)
    x = 3 * torch.randn(2, 3, 5, dtype=torch.float64)
    expected = (1 + weight) * score(conditional, x) - weight * score(null, x)
    torch.testing.assert_close(score(guided, x), expected, rtol=1e-10, atol=1e-10)


def test_gaussian_guidance_clips_each_element_by_itself(conditional, null):
    guided = apply(GaussianGuidance(2.0), conditional, null)
    free = apply(GaussianGuidance(2.0), conditional, wider(null, conditional))
    clipped = conditional.log_scale > null.log_scale
    assert clipped.any(dim=2).all()  # a mixture at every position of every example
    assert not clipped.all(dim=2).any()
    assert torch.equal(guided.log_scale[clipped], conditional.log_scale[clipped])
    extrapolated = (3 * conditional.shift - 2 * null.shift)[clipped]
    torch.testing.assert_close(guided.shift[clipped], extrapolated)
    assert torch.equal(guided.shift[~clipped], free.shift[~clipped])


def test_gaussian_guidance_never_widens(conditional, null):
    guided = apply(GaussianGuidance(20.0), conditional, null)
    assert (guided.log_scale <= conditional.log_scale).all()


@GUIDANCES
def test_rules_leave_equal_predictions_alone(conditional, guidance_type):
    guided = apply(guidance_type(3.0), conditional, conditional)
    torch.testing.assert_close(guided.log_scale, conditional.log_scale)
    torch.testing.assert_close(guided.shift, conditional.shift)


@GUIDANCES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rules_keep_the_dtype(conditional, null, guidance_type, dtype):
    single = [Affine(a.log_scale.to(dtype), a.shift.to(dtype)) for a in (conditional, null)]
    guided = apply(guidance_type(0.7), *single)
    assert guided.log_scale.dtype == guided.shift.dtype == dtype


@pytest.mark.parametrize("schedule", [ConstantSchedule(), LinearSchedule()])
def test_the_weight_is_as_precise_as_the_predictions(conditional, null, schedule):
    guided = apply(LinearGuidance(0.7, schedule=schedule), conditional, null)
    last = conditional.shift[:, -1] + 0.7 * (conditional.shift - null.shift)[:, -1]
    torch.testing.assert_close(guided.shift[:, -1], last, rtol=0, atol=1e-14)


@GUIDANCES
def test_weight_and_temperature_are_checked(guidance_type):
    for weight in (-0.1, math.nan):
        with pytest.raises(ValueError, match="guidance weight"):
            guidance_type(weight)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="attention temperature"):
            guidance_type(1.0, temperature=temperature)


@pytest.mark.parametrize("weight", [0.3, 2.0, 30.0])
@pytest.mark.parametrize(("on_scale", "on_shift"), [(True, True), (True, False), (False, True)])
def test_guidance_of_the_scale_extrapolates(conditional, null, weight, on_scale, on_shift):
    rule = LinearScaleGuidance(
        weight, schedule=LinearSchedule(), on_scale=on_scale, on_shift=on_shift
    )
    guided = apply(rule, conditional, null)
    scales = [each.log_scale.exp() for each in (conditional, null)]
    w = weight * torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64) / 3
    scale = scales[0] + w * (scales[0] - scales[1]) if on_scale else scales[0]
    assert (scale < 0).any() or weight < 1 or not on_scale
    shift = conditional.shift + w * (conditional.shift - null.shift)
    torch.testing.assert_close(guided.scale(guided.shift), scale)
    torch.testing.assert_close(guided.shift, shift if on_shift else conditional.shift)
    z = torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(guided.to_data(z), z * scale + guided.shift)
    torch.testing.assert_close(guided.to_noise(guided.to_data(z)), z)
    torch.testing.assert_close(guided.log_det(guided.shift), -scale.abs().log().sum(dim=(1, 2)))
    first = guided.after_first().to_data(torch.cat([z[:, :1], z], dim=1))
    torch.testing.assert_close(first, torch.cat([z[:, :1], guided.to_data(z)], dim=1))


def test_guidance_of_the_scale_does_not_overflow_with_it():
    conditional, null = (Affine(*torch.full((2, 1, 3, 5), value)) for value in (-200.0, -201.0))
    guided = apply(LinearScaleGuidance(1.0), conditional, null)
    expected = torch.full((1, 3, 5), -200 + math.log(2 - math.exp(-1)))
    torch.testing.assert_close(guided.log_scale, expected)


def test_rules_are_told_by_words_of_earlier_releases_where_these_had_them():
    linear = "weight=1.0, temperature=1.0, schedule=ConstantSchedule(), on_log_scale=True"
    assert repr(LinearGuidance(1.0)) == f"LinearGuidance({linear}, on_shift=True)"
    assert repr(GaussianGuidance(1.0)) == "GaussianGuidance(weight=1.0, temperature=1.0)"
    rising = LinearSchedule()
    assert "depths=(0, 2), on_log" in repr(LinearGuidance(1.0, depths=[2, 0, 2]))
    told = repr(GaussianGuidance(1.0, schedule=rising, depths=None))
    assert told.endswith("temperature=1.0, schedule=LinearSchedule(), depths=None)")
    assert repr(LinearScaleGuidance(1.0, schedule=rising)) != repr(LinearScaleGuidance(1.0))


@GUIDANCES
@pytest.mark.parametrize("depths", [[], (), [-1], [0, True]])
def test_depths_are_checked(guidance_type, depths):
    with pytest.raises(ConfigurationError, match="depths"):
        guidance_type(1.0, depths=depths)


def test_a_rule_that_acts_on_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="on_log_scale=False and on_shift=False acts on"):
        LinearGuidance(1.0, on_log_scale=False, on_shift=False)
    with pytest.raises(ConfigurationError, match="on_scale=False and on_shift=False acts on"):
        LinearScaleGuidance(1.0, on_scale=False, on_shift=False)


def test_rules_act_on_the_depths_that_are_named():
    for kind in (LinearGuidance, LinearScaleGuidance, GaussianGuidance):
        assert [kind(1.0, depths=[2, 0]).acts_at(d) for d in range(3)] == [True, False, True]
        assert [kind(1.0, depths=None).acts_at(depth) for depth in range(3)] == [True] * 3


def test_gaussian_guidance_acts_on_the_first_inverted_transform_only():
    assert [GaussianGuidance(1.0).acts_at(depth) for depth in range(3)] == [True, False, False]
    assert [LinearGuidance(1.0).acts_at(depth) for depth in range(3)] == [True, True, True]
    assert not LinearGuidance(0.0).acts_at(0)
