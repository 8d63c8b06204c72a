"""Certified windowed decoding: against sequential decoding, the method's loop, the equations."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tarflow import (
    Affine,
    ConfigurationError,
    Context,
    ExpScale,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
    NonFiniteError,
    PerTransform,
    Sequential,
    SoftplusScale,
    SplineScale,
    UnitScale,
)
from tarflow.flows.affine import SignedAffine
from tarflow.flows.decoding import DecodeOptions, Predict
from tarflow.nn.attention import Fronts

from . import equations
from .models import tiny_flow, tough_flow
from .test_decoding import gaussian, linear, linear_scale

LENGTH = 24
LABEL = torch.tensor([0, 2, -1, 1])
WINDOWS = pytest.mark.parametrize("window", [1, 2, 5, LENGTH, 99])

GUIDANCE = {
    "unguided": (None, None),
    "constant": (LinearGuidance(1.0), linear(1.0)),
    "rising": (LinearGuidance(1.5, schedule=LinearSchedule()), linear(1.5, rising=True)),
    "scale": (LinearScaleGuidance(1.0), linear_scale(1.0)),
    "gaussian": (GaussianGuidance(1.0), gaussian(1.0)),
    "at depth 1": (LinearGuidance(1.0, depths=[1]), linear(1.0)),
}
TEMPERED = {
    "linear": (LinearGuidance(1.0, temperature=0.3), linear(1.0)),
    "scale": (LinearScaleGuidance(1.0, temperature=0.3, depths=[1]), linear_scale(1.0)),
    "gaussian": (GaussianGuidance(0.5, temperature=0.5), gaussian(0.5)),
}


@pytest.fixture(autouse=True)
def no_gradients():
    """Decode without gradients."""
    with torch.no_grad():
        yield


def noise(dtype=torch.float64, batch: int = 4) -> Tensor:
    """Noise of some examples."""
    return torch.randn(batch, LENGTH, 2, dtype=torch.float64).to(dtype)


# --- Equal to sequential decoding -----------------------------------------------------------


def assert_equals_sequential(flow, z, label, window, guidance=None, tolerance=1e-12, within=1e-9):
    """Decoding in windows finds what sequential decoding does, by the passes that are expected."""
    expected = flow.inverse(z, label, guidance=guidance)
    inverse = flow.decode(z, label, guidance=guidance, decoder=Jacobi(window, tolerance))
    torch.testing.assert_close(inverse.x, expected, rtol=0, atol=within)
    report = inverse.report
    assert (report.residual <= tolerance).all()
    assert report.certified.all()
    assert report.exact == (False, False)
    assert not report.non_finite.any()
    for passes in report.passes:
        if window == 1:
            assert passes == LENGTH - 1
        else:  # neither easy, nor no better than one position at a time
            assert 1.5 * math.ceil((LENGTH - 1) / window) < passes < LENGTH - 1


@WINDOWS
@pytest.mark.parametrize("name", GUIDANCE)
def test_any_window_finds_the_sequential_solution(window, name):
    flow = tough_flow().double()
    assert_equals_sequential(flow, noise(), LABEL, window, GUIDANCE[name][0])


@WINDOWS
def test_in_float32_the_solution_is_within_some_tolerances(window):
    flow, z = tough_flow(), noise(torch.float32)
    options = {"tolerance": 1e-4, "within": 1e-3}
    assert_equals_sequential(flow, z, LABEL, window, LinearGuidance(1.0), **options)


@pytest.mark.parametrize("window", [5, LENGTH])
@pytest.mark.parametrize("scale", [SoftplusScale(), UnitScale()])
@pytest.mark.parametrize("name", ["unguided", "gaussian"])
def test_other_scales_find_it_too(scale, window, name):
    flow = tough_flow(scale).double()
    assert_equals_sequential(flow, noise(), LABEL, window, GUIDANCE[name][0])


@pytest.mark.parametrize("window", [5, LENGTH])
@pytest.mark.parametrize("name", ["unguided", "gaussian"])
def test_splines_find_it_too(window, name):
    flow = tough_flow(SplineScale(3), std=0.07).double()
    options = {"tolerance": 1e-8, "within": 1e-5}  # a root of a quadratic is not as exact
    assert_equals_sequential(flow, noise(), LABEL, window, GUIDANCE[name][0], **options)


@pytest.mark.parametrize("window", [2, LENGTH])
@pytest.mark.parametrize("name", TEMPERED)
def test_flows_without_classes_find_it_too(window, name):
    flow = tough_flow(num_classes=0).double()
    assert_equals_sequential(flow, noise(), None, window, TEMPERED[name][0])


def test_an_attention_temperature_of_the_context_is_kept():
    flow, z = tough_flow().double(), noise()
    tempered = Context(LABEL, torch.tensor([1.0, 0.3, 3.0, 1.0], dtype=torch.float64))
    assert_equals_sequential(flow, z, tempered, 5)
    changed = flow.inverse(z, tempered) - flow.inverse(z, LABEL)
    assert changed.flatten(1).abs().amax(dim=1).gt(1e-3).tolist() == [False, True, True, False]


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_a_window_of_one_is_sequential_decoding(dtype, within):
    flow, z = tough_flow().to(dtype), noise(dtype)
    inverse, sequential = (
        flow.decode(z, LABEL, decoder=decoder) for decoder in (Jacobi(1, 1e-3), Sequential())
    )
    torch.testing.assert_close(inverse.x, sequential.x, rtol=within, atol=within)
    torch.testing.assert_close(inverse.log_det, sequential.log_det, rtol=within, atol=within)


@pytest.mark.parametrize("decoder", [Sequential(), Jacobi(5, 1e-12)])
@pytest.mark.parametrize("scale", [ExpScale(), SoftplusScale()])
def test_the_log_determinant_is_that_of_the_forward_pass(decoder, scale):
    flow = tough_flow(scale).double()
    inverse = flow.decode(noise(), LABEL, decoder=decoder)
    _, log_det = flow(inverse.x, LABEL)
    assert log_det.abs().min() > 1e-2
    torch.testing.assert_close(inverse.log_det, log_det, rtol=0, atol=1e-9)


def test_a_tolerance_bounds_what_is_accepted():
    flow, z = tough_flow().double(), noise()
    expected, fewer = flow.inverse(z, LABEL), LENGTH
    for tolerance in (1e-9, 1e-6, 1e-3, 1e-1):
        inverse = flow.decode(z, LABEL, decoder=Jacobi(LENGTH, tolerance))
        largest = float(inverse.report.residual.max())
        assert tolerance / 100 < largest <= tolerance
        deviation = (inverse.x - expected).abs().max()
        assert tolerance / 100 < deviation < 10 * tolerance
        assert inverse.report.passes[0] < fewer
        fewer = inverse.report.passes[0]


def test_many_rows_decode_as_few():
    """Attention takes another path from 32 rows times heads on."""
    flow, z, label = tough_flow(), noise(torch.float32, 20), LABEL.repeat(5)
    for decoder in (Sequential(), Jacobi(5, 1e-6)):
        together = flow.inverse(z, label, decoder=decoder)
        some = flow.inverse(z[:3], label[:3], decoder=decoder)
        torch.testing.assert_close(together[:3], some, rtol=0, atol=1e-4)


# --- Certificates ---------------------------------------------------------------------------


def noise_of(transform, x, label, rule=None, temperature=1.0) -> Tensor:
    """The noise that data is decoded from: each position from scratch, in float64."""
    transform, x = copy.deepcopy(transform).double(), x.double()
    z = [x[:, 0]]
    for i in range(1, x.shape[1]):
        log_scale, shift = equations.predict(transform, x[:, :i], label)
        scale = log_scale.exp()
        if rule is not None:
            null_label = torch.full_like(label, -1)
            null = equations.predict(transform, x[:, :i], null_label, temperature)
            scale, shift = rule(log_scale, shift, *null, i / (x.shape[1] - 1))
        z.append((x[:, i] - shift) / scale)
    return torch.stack(z, dim=1)


def assert_certificates_hold(flow, z, label, options, rule) -> None:
    """The residual that each transform reports is that of the equations."""
    context, null = Context(label), torch.full((len(z),), -1)
    for transform in reversed(list(flow.transform)):
        inverse = transform.inverse(z, context, options)
        if transform.num_decoded:
            acts = options.rule is not None
            temperature = options.guidance.temperature if acts else 1.0
            args = null if label is None else label, rule if acts else None, temperature
            recomputed = noise_of(transform, inverse.x, *args)
            gap = (recomputed - z).abs().amax(dim=(1, 2))
            tolerance = options.decoder.tolerance
            assert (gap <= 1.01 * tolerance).all()
            assert gap.max() > tolerance / 100  # what is measured is no rounding
            [residual] = inverse.report.residual
            torch.testing.assert_close(residual.double(), gap, rtol=0, atol=3e-6)
        z, options = inverse.x, options.deeper(transform.num_decoded)


@pytest.mark.parametrize("window", [5, LENGTH])
@pytest.mark.parametrize("name", GUIDANCE)
def test_certificates_hold(window, name):
    guidance, rule = GUIDANCE[name]
    options = DecodeOptions(guidance, Jacobi(window, 1e-3))
    assert_certificates_hold(tough_flow(), noise(torch.float32), LABEL, options, rule)


@pytest.mark.parametrize("name", TEMPERED)
def test_certificates_hold_without_classes(name):
    guidance, rule = TEMPERED[name]
    flow, z = tough_flow(num_classes=0), noise(torch.float32)
    assert_certificates_hold(flow, z, None, DecodeOptions(guidance, Jacobi(5, 1e-3)), rule)


# --- The iteration itself, on predictions without a network ---------------------------------

Rule = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Log-scale and shift of the next position, given all values of one example and its index."""


class Toy(Predict):
    """A prediction from a rule: keeps the values, and tells what drafts it was given.

    Args:
        rule: What to predict.
        z: Noise; tells the shape.
    """

    def __init__(self, rule: Rule, z: Tensor):
        self.rule = rule
        self.x = torch.full_like(z, torch.nan)
        self.calls = []

    def __call__(self, x: Tensor, start: int | Fronts) -> Affine:
        starts = [start] * len(x) if isinstance(start, int) else start.positions[:, 0].tolist()
        self.calls.append((starts, x.clone()))
        maps = []
        for example, (first, values) in enumerate(zip(starts, self.x, strict=True)):
            values[first : first + x.shape[1]] = x[example]
            ends = range(first + 1, first + x.shape[1] + 1)
            maps.append([self.rule(values[:position], example) for position in ends])
        log_scale, shift = (
            torch.stack([torch.stack([one[part] for one in row]) for row in maps])
            for part in (0, 1)
        )
        return Affine(log_scale, shift)


def mixing(before: Tensor, example: int) -> tuple[Tensor, Tensor]:
    """A rule that takes all values into account, more strongly in later examples."""
    weight = torch.arange(1, len(before) + 1, dtype=before.dtype)[:, None].cos()
    mean = (weight * before).mean(dim=0)
    return 0.1 * torch.sin(example * mean), torch.sin(0.3 * example * mean.flip(0))


def overflowing(before: Tensor, example: int) -> tuple[Tensor, Tensor]:
    """A rule with small solutions; two examples overflow at drafts, which are as large as z."""
    log_scale, shift = mixing(before, example)
    large = before[1:].abs().gt(1).any()
    if example == 1 and large:
        shift = shift / 0
    if example == 3 and large:
        log_scale = log_scale + 1e4
    return log_scale - 3, shift / 3


def chaotic(before: Tensor, example: int) -> tuple[Tensor, Tensor]:
    """A rule that no draft is near enough for."""
    shift = torch.sin(1e3 * before[-1])
    return torch.zeros_like(shift), shift


def method(rule: Rule, z: Tensor, window: int, tolerance: float):
    """The loop of the method, one number at a time: x, passes, iterations, non-finite drafts."""
    x, last = z.clone(), z.shape[1] - 1
    front, iterations, thrown, passes = [0] * len(z), [0] * len(z), [0] * len(z), 0
    while min(front) < last:
        new, passes = x.clone(), passes + 1
        for example in range(len(z)):
            proving = True
            iterations[example] += front[example] < last
            for position in range(front[example] + 1, min(front[example] + window, last) + 1):
                log_scale, shift = rule(x[example, :position], example)
                gap = (x[example, position] - shift) * torch.exp(-log_scale) - z[example, position]
                accepted = proving and bool(gap.abs().max() <= tolerance)
                if proving:
                    front[example] = position
                if accepted:
                    continue
                value = torch.exp(log_scale) * z[example, position] + shift
                if not proving and not value.isfinite().all():
                    thrown[example] += 1
                    value = z[example, position]
                new[example, position], proving = value, False
        x = new
    return x, passes, iterations, thrown


@pytest.mark.parametrize("window", [1, 2, 4, 11, 30])
@pytest.mark.parametrize("rule", [mixing, overflowing, chaotic])
@pytest.mark.parametrize("tolerance", [1e-9, 1e-2])
def test_the_iteration_is_that_of_the_method(rule, window, tolerance):
    z = torch.randn(5, 12, 2, dtype=torch.float64)
    decoded = Jacobi(window, tolerance)(Toy(rule, z), z)
    x, passes, iterations, thrown = method(rule, z, window, tolerance)
    assert torch.equal(decoded.x, x)
    assert decoded.report.passes == (passes,)
    assert decoded.report.iterations.tolist() == [iterations]
    assert decoded.report.non_finite.tolist() == [thrown]
    maps = [[rule(x[i, :p], i) for p in range(1, 12)] for i in range(5)]
    log_scale, shift = (
        torch.stack([torch.stack([one[part] for one in row]) for row in maps]) for part in (0, 1)
    )
    assert torch.equal(decoded.log_det, -log_scale.sum(dim=(1, 2)))
    gap = (x[:, 1:] - shift) * torch.exp(-log_scale) - z[:, 1:]
    assert torch.equal(decoded.report.residual[0], gap.abs().amax(dim=(1, 2)))


class SignedToy(Toy):
    """The same, with scales of either sign."""

    def __call__(self, x: Tensor, start: int | Fronts) -> Affine:
        inputs = torch.arange(x.shape[1])[None]
        position = (inputs + start if isinstance(start, int) else start.positions) + 1.0
        sign = (position.to(x.dtype)[..., None] + torch.arange(2)).sin().sign().expand_as(x)
        return SignedAffine(**vars(super().__call__(x, start)), sign=sign)


@pytest.mark.parametrize("window", [1, 4, 30])
def test_negative_scales_are_decoded_and_certified(window):
    z = torch.randn(5, 12, 2, dtype=torch.float64)
    sequential = Sequential()(SignedToy(mixing, z), z)
    x = z[:, :1]
    for _ in range(11):
        affine = SignedToy(mixing, z)(x, 0)
        new = affine.sign * affine.log_scale.exp() * z[:, 1 : x.shape[1] + 1] + affine.shift
        x = torch.cat([x, new[:, -1:]], dim=1)
    torch.testing.assert_close(sequential.x, x, rtol=0, atol=1e-12)
    decoded = Jacobi(window, 1e-9)(SignedToy(mixing, z), z)
    torch.testing.assert_close(decoded.x, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(decoded.log_det, sequential.log_det, rtol=0, atol=1e-7)
    maps = SignedToy(mixing, z)(decoded.x[:, :-1], 0)
    gap = (decoded.x[:, 1:] - maps.shift) / (maps.sign * maps.log_scale.exp()) - z[:, 1:]
    [residual] = decoded.report.residual
    torch.testing.assert_close(residual, gap.abs().amax(dim=(1, 2)), rtol=0, atol=1e-15)
    assert residual.max() < 1e-9


def test_examples_finish_on_their_own():
    z = torch.randn(5, 12, 2, dtype=torch.float64)
    decoded = Jacobi(99, 1e-9)(Toy(mixing, z), z)
    [iterations], [passes] = decoded.report.iterations.tolist(), decoded.report.passes
    assert iterations[0] == 1  # its maps are the identity, and the noise its solution
    assert max(iterations) == passes
    assert len(set(iterations)) >= 4


@pytest.mark.parametrize("window", [1, 3, 99])
def test_there_is_an_end_even_if_no_draft_helps(window):
    z = torch.randn(3, 12, 2, dtype=torch.float64)
    decoded = Jacobi(window, 1e-9)(Toy(chaotic, z), z)
    assert decoded.report.passes == (11,)
    assert decoded.report.iterations.tolist() == [[11] * 3]
    assert torch.equal(decoded.x, Sequential()(Toy(chaotic, z), z).x)


@pytest.mark.parametrize("window", [1, 5, LENGTH])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_a_tolerance_below_rounding_ends_with_exact_values(window, dtype, within):
    flow, z = tough_flow(SoftplusScale(), std=0.25).to(dtype), noise(dtype)
    inverse = flow.decode(z, LABEL, decoder=Jacobi(window, 1e-30))
    assert inverse.report.passes == (LENGTH - 1,) * 2
    torch.testing.assert_close(inverse.x, flow.inverse(z, LABEL), rtol=0, atol=within)


@pytest.mark.parametrize("window", [2, 5, 99])
def test_what_is_accepted_never_changes(window):
    z = torch.randn(5, 12, 2, dtype=torch.float64)
    toy = Toy(mixing, z)
    decoded = Jacobi(window, 1e-3)(toy, z)
    for example in range(5):
        starts = [each[example] for each, _ in toy.calls]
        assert starts == sorted(starts)
        for first, (_, x) in zip(starts, toy.calls, strict=True):
            assert torch.equal(x[example, 0], decoded.x[example, first])
    assert window > 5 or len({tuple(each) for each, _ in toy.calls if len(set(each)) > 1}) > 1
    assert torch.equal(decoded.x[:, 0], z[:, 0])


@pytest.mark.parametrize("tolerance", [1e-12, 1e-3])
def test_a_sample_does_not_depend_on_its_batch(tolerance):
    flow, z, decoder = tough_flow().double(), noise(), Jacobi(5, tolerance)
    together = flow.decode(z, LABEL, decoder=decoder)
    alone = [flow.decode(z[i : i + 1], LABEL[i : i + 1], decoder=decoder) for i in range(4)]
    x = torch.cat([inverse.x for inverse in alone])
    torch.testing.assert_close(x, together.x, rtol=0, atol=1e-12)
    assert together.report.passes == tuple(
        max(inverse.report.passes[depth] for inverse in alone) for depth in range(2)
    )


# --- Values that are not finite -------------------------------------------------------------


@pytest.mark.parametrize("window", [3, 99])
def test_drafts_that_overflow_are_thrown_away(window):
    z = torch.randn(5, 12, 2, dtype=torch.float64)
    decoded, exact = (
        decoder(Toy(overflowing, z), z) for decoder in (Jacobi(window, 1e-9), Sequential())
    )
    assert exact.x.isfinite().all()
    torch.testing.assert_close(decoded.x, exact.x, rtol=0, atol=1e-8)
    assert decoded.report.non_finite.gt(0).tolist() == [[False, True, False, True, False]]


@pytest.mark.parametrize("window", [1, 3, 99])
def test_an_exact_value_that_overflows_breaks_its_example_only(window):
    z = torch.randn(3, 12, 2, dtype=torch.float64)

    def rule(before, example):
        log_scale, shift = mixing(before, example)
        return log_scale, shift / 0 if example == 1 and len(before) >= 6 else shift

    decoded, exact = Jacobi(window, 1e-9)(Toy(rule, z), z), Sequential()(Toy(rule, z), z)
    assert decoded.report.passes[0] <= 11
    assert decoded.x.isfinite().flatten(1).all(dim=1).tolist() == [True, False, True]
    torch.testing.assert_close(decoded.x[1, :6], exact.x[1, :6], rtol=0, atol=1e-8)
    assert not decoded.x[1, 6].isfinite().any()
    torch.testing.assert_close(decoded.x[::2], exact.x[::2], rtol=0, atol=1e-8)


def test_nothing_is_clamped():
    flow, z = tough_flow(UnitScale()).double(), 1000 * noise()
    expected = flow.inverse(z, LABEL)
    assert expected.abs().max() > 1000
    x = flow.inverse(z, LABEL, decoder=Jacobi(5, 1e-9))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_flow_names_the_transform_that_overflows(dtype):
    flow = tiny_flow(num_classes=3)
    torch.nn.init.constant_(flow.transform[3].network.proj_out.bias, 1e4)
    with pytest.raises(NonFiniteError, match="transform 3") as caught:
        flow.sample(2, 1, decoder=Jacobi(2), dtype=dtype)
    assert caught.value.transform == 3


# --- Options --------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_holds_at_least_one_position(window):
    with pytest.raises(ConfigurationError, match=f"window {window} must be at least 1"):
        Jacobi(window=window)


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, math.nan, math.inf])
def test_a_tolerance_is_positive_and_finite(tolerance):
    with pytest.raises(ConfigurationError, match=f"tolerance {tolerance} must be positive"):
        Jacobi(tolerance=tolerance)


def test_each_transform_may_have_a_decoder_of_its_own():
    flow, z = tough_flow().double(), noise()
    decoders = (Sequential(), Jacobi(5, 1e-12))
    for pair in (decoders, decoders[::-1]):
        inverse = flow.decode(z, LABEL, decoder=PerTransform(pair))
        assert inverse.report.decoder == pair
        assert inverse.report.exact == tuple(isinstance(decoder, Sequential) for decoder in pair)
        torch.testing.assert_close(inverse.x, flow.inverse(z, LABEL), rtol=0, atol=1e-9)


def test_each_transform_needs_a_decoder():
    flow = tiny_flow()
    with pytest.raises(ConfigurationError, match="decoders for 2 transforms, but the flow has mo"):
        flow.sample(2, decoder=PerTransform((Sequential(), Jacobi())))
    with pytest.raises(ConfigurationError, match="through the decoders that it holds"):
        PerTransform((Sequential(),))(Toy(chaotic, torch.zeros(1, 2, 1)), torch.zeros(1, 2, 1))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_one_position_needs_no_pass(dtype):
    flow = tiny_flow(image_size=2)
    z = torch.randn(3, 1, 8)
    inverse = flow.decode(z, decoder=Jacobi(), dtype=dtype)
    assert torch.equal(inverse.x.flatten(), z.flatten())
    assert inverse.report.passes == (0, 0, 0)
    assert inverse.report.certified.all()
    assert not inverse.report.residual.any()
