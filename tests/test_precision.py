"""Decoding in half precision: checked in full precision, and redone where that finds a miss."""

import copy
from dataclasses import replace

import pytest
import torch

from tarflow import (
    ConfigurationError,
    Context,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    Networks,
    Sequential,
)
from tarflow.flows.autoregressive import Inversion
from tarflow.flows.decoding import DecodeOptions

from .models import tiny_flow, tough_flow
from .test_jacobi import noise_of

LABEL = torch.tensor([0, 2, -1, 1, 0, 1, 2, -1])
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
DECODERS = pytest.mark.parametrize("decoder", [Sequential(), Jacobi(5, 1e-3)])
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""What some examples miss in this precision, and others do not."""


@pytest.fixture(autouse=True)
def no_gradients():
    """Decode without gradients."""
    with torch.no_grad():
        yield


@pytest.fixture
def flow():
    """A flow whose drafts converge slowly, in float32."""
    return tough_flow()


@pytest.fixture
def z():
    """Noise of eight examples."""
    return torch.randn(8, 24, 2)


# --- Certificates ---------------------------------------------------------------------------


@HALF
@pytest.mark.parametrize("window", [5, 99])
@pytest.mark.parametrize("guidance", [None, LinearGuidance(0.5)])
def test_exactly_the_examples_that_miss_the_tolerance_are_redone(flow, z, dtype, window, guidance):
    transform, context = flow.transform[3], Context(LABEL)
    decoder = Jacobi(window, TOLERANCE[dtype])
    networks = Networks(dtype)
    options = DecodeOptions(guidance, decoder)
    draft = Inversion(transform, z, context, options).solve(networks.of(transform.network))

    def rule(log_scale, shift, null_log_scale, null_shift, progress):
        scale = torch.exp(1.5 * log_scale - 0.5 * null_log_scale)
        return scale, 1.5 * shift - 0.5 * null_shift

    args = LABEL, None if guidance is None else rule
    gap = (noise_of(transform, draft.x, *args) - z).abs().amax(dim=(1, 2))

    inverse = transform.inverse(z, context, replace(options, networks=networks))
    report, [missed] = inverse.report, inverse.report.redone
    assert 0 < missed.sum() < 8
    assert (gap[missed] > decoder.tolerance - 1e-5).all()
    assert (gap[~missed] < decoder.tolerance + 1e-5).all()
    assert torch.equal(inverse.x[~missed], draft.x[~missed])
    residual = report.residual[0]
    torch.testing.assert_close(residual[~missed].double(), gap[~missed], rtol=0, atol=1e-5)
    again = transform.inverse(z[missed], Context(LABEL[missed]), options)
    assert torch.equal(inverse.x[missed], again.x)
    assert torch.equal(inverse.log_det[missed], again.log_det)
    assert torch.equal(residual[missed], again.report.residual[0])
    assert report.passes == (draft.report.passes[0] + again.report.passes[0],)
    assert torch.equal(report.iterations[:, ~missed], draft.report.iterations[:, ~missed])
    assert (report.iterations[:, missed] > again.report.iterations).all()
    assert report.certified.all()
    assert report.exact == (False,)
    checked = (noise_of(transform, inverse.x, *args) - z).abs().amax(dim=(1, 2))
    assert (checked <= 1.001 * decoder.tolerance).all()


@HALF
@pytest.mark.parametrize("guidance", [None, GaussianGuidance(0.5)])
def test_with_a_tolerance_of_full_precision_all_is_redone(flow, z, dtype, guidance):
    options = {"decoder": Jacobi(5, 1e-5), "guidance": guidance}
    exact, inverse = (flow.decode(z, LABEL, dtype=d, **options) for d in (None, dtype))
    assert torch.equal(inverse.x, exact.x)
    assert inverse.report.redone.all()
    assert inverse.report.certified.all()


@HALF
def test_sequential_decoding_is_checked_if_asked(flow, z, dtype):
    plain, checked = (
        flow.decode(z, LABEL, dtype=dtype, certify=certify) for certify in (False, True)
    )
    assert torch.equal(plain.x, checked.x)
    assert plain.report.residual.isnan().all()
    assert not plain.report.certified.any()
    assert checked.report.certified.all()
    largest = checked.report.residual.amax(dim=1)
    assert ((largest > 1e-4) & (largest < 0.2)).all()
    for report in (plain.report, checked.report):
        assert not report.redone.any()
        assert report.exact == (False, False)
    transform = flow.transform[3]
    inverse = transform.inverse(
        z.flip(1), Context(LABEL), DecodeOptions(dtype=dtype, certify=True)
    )
    gap = (noise_of(transform, inverse.x, LABEL) - z.flip(1)).abs().amax(dim=(1, 2))
    torch.testing.assert_close(inverse.report.residual[0].double(), gap, rtol=0, atol=1e-5)


@HALF
def test_a_report_asks_for_certificates(flow, dtype):
    _, report = flow.sample(3, 1, dtype=dtype, return_report=True)
    assert report.certified.all()
    assert (report.residual > 1e-6).any()
    _, report = flow.sample(3, 1, dtype=dtype, return_report=True, certify=False)
    assert report.residual.isnan().all()


def test_in_full_precision_sequential_decoding_is_exact(flow, z):
    report = flow.decode(z, LABEL).report
    assert report.exact == (True, True)
    assert report.certified.all()
    assert report.residual.max() < 1e-5


# --- Overflow -------------------------------------------------------------------------------


@pytest.fixture
def overflowing(flow):
    """A flow in which class 0 exceeds the range of float16, but not that of float32."""
    for transform in flow.transform:
        if transform.num_decoded:
            network, direction = transform.network, torch.zeros(16)
            direction[3] = 1
            transform.label_embedding.weight[0] += 1e5 * direction
            network.proj_out.weight[:, 3] = 0  # where it ends
            still = torch.zeros(1, 24, 2)
            assert network(still, transform.condition(Context(), still)).isfinite().all()
    return flow


@DECODERS
def test_what_overflows_in_float16_is_redone_in_float32(overflowing, z, decoder):
    label = LABEL.clamp(min=1)
    label[::3] = 0
    expected = overflowing.inverse(z, label, decoder=decoder)
    inverse = overflowing.decode(z, label, decoder=decoder, dtype=torch.float16)
    assert expected.isfinite().all()
    report = inverse.report
    assert report.redone[:, label == 0].all()
    assert isinstance(decoder, Jacobi) or not report.redone[:, label != 0].any()
    assert (report.residual[:, label == 0] < 1e-3).all()
    assert report.exact == (False, False)
    within = 1e-5 if isinstance(decoder, Sequential) else 1e-2
    torch.testing.assert_close(inverse.x[::3], expected[::3], rtol=0, atol=within)
    torch.testing.assert_close(inverse.x, expected, rtol=0, atol=0.05)


# --- What computes in which precision -------------------------------------------------------


def deviation(flow, z, exact, **options) -> float:
    """Root mean square difference from the sample in float64."""
    x = flow.inverse(z, LABEL, **options)
    assert x.dtype == torch.float32
    return float((x - exact).square().mean().sqrt())


@DECODERS
def test_deviations_are_those_of_the_precision(flow, z, decoder):
    before = copy.deepcopy(flow.state_dict())
    exact = copy.deepcopy(flow).double().inverse(z.double(), LABEL)
    decoder = decoder if isinstance(decoder, Sequential) else Jacobi(5, 0.5)
    by_dtype = {
        dtype: deviation(flow, z, exact, dtype=dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    assert by_dtype[torch.float64] < by_dtype[torch.float32] < 1e-5
    assert 1e-4 < by_dtype[torch.float16] < 1e-3 < by_dtype[torch.bfloat16] < 0.05
    assert all(torch.equal(before[name], value) for name, value in flow.state_dict().items())
    assert all(value.dtype == torch.float32 for value in flow.parameters())


def precisions(call) -> set[torch.dtype]:
    """The precisions in which a call ran transformers."""
    seen = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (torch.layer_norm, torch.nn.functional.layer_norm):  # packed, or not
                seen.add(args[0].dtype)
            return function(*args, **(kwargs or {}))

    with Watch():
        call()
    return seen


def test_autocast_tells_the_precision_of_transformers(flow, z):
    def decode():
        with torch.autocast("cpu", torch.bfloat16):
            return flow.decode(z, LABEL)

    assert precisions(decode) == {torch.bfloat16}
    inverse = decode()
    assert inverse.x.dtype == inverse.log_det.dtype == torch.float32
    assert torch.equal(inverse.x, flow.inverse(z, LABEL, dtype=torch.bfloat16))
    assert inverse.report.exact == (False, False)


def test_certificates_under_autocast_are_those_of_full_precision(flow, z):
    decoder = Jacobi(5, TOLERANCE[torch.bfloat16])
    with torch.autocast("cpu", torch.bfloat16):
        autocast = flow.decode(z, LABEL, decoder=decoder)
    expected = flow.decode(z, LABEL, decoder=decoder, dtype=torch.bfloat16)
    assert torch.equal(autocast.x, expected.x)
    assert expected.report.redone[0].any()
    assert torch.equal(autocast.report.residual, expected.report.residual)
    assert torch.equal(autocast.report.redone, expected.report.redone)


def test_autocast_leaves_float64_alone(z):
    flow, z = tough_flow().double(), z.double()
    expected = flow.inverse(z, LABEL)
    with torch.autocast("cpu", torch.bfloat16):
        inverse = flow.decode(z, LABEL)
    assert torch.equal(inverse.x, expected)
    assert inverse.report.exact == (True, True)


def test_with_gradients_lower_precision_is_not_called_exact(flow, z):
    with torch.enable_grad():
        assert flow.decode(z, LABEL).report.exact == (True, True)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = flow.decode(z, LABEL)
        half = flow.bfloat16().decode(z, LABEL)
    for inverse in (autocast, half):
        assert inverse.x.requires_grad
        assert inverse.report.exact == (False, False)
        assert not inverse.report.certified.any()


def test_weights_in_bfloat16_are_certified_in_float32(flow, z):
    half = copy.deepcopy(flow).bfloat16()
    inverse = half.decode(z, LABEL, decoder=Jacobi(5, TOLERANCE[torch.bfloat16]))
    assert inverse.x.dtype == torch.float32
    # How many depends on how the processor rounds: some in one transform, maybe all in another.
    assert any(0 < redone.sum() < 8 for redone in inverse.report.redone)
    assert inverse.report.certified.all()
    exact = half.float().inverse(z, LABEL)  # the weights, rounded
    torch.testing.assert_close(inverse.x, exact, rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("bfloat16_products", 1e-2), ("float16_weights", 1e-4)]
)
def test_rounded_layers_are_certified_and_redone_as_lower_precisions_are(flow, z, name, tolerance):
    options = DecodeOptions(networks=Networks(name), certify=True)
    exact = flow.decode(z, LABEL)
    plain = flow.decode(z, LABEL, options=options)
    assert plain.report.exact == (False,) * len(plain.report)
    assert (plain.report.residual > exact.report.residual).all()
    assert not plain.report.redone.any()
    unchecked = flow.decode(z, LABEL, networks=Networks(name))
    assert unchecked.report.residual.isnan().all()
    assert torch.equal(unchecked.x, plain.x)
    decoder = Jacobi(5, tolerance)
    windows = flow.decode(z, LABEL, options=replace(options, decoder=decoder))
    assert windows.report.redone.any()
    assert windows.report.certified.all()


# --- Options --------------------------------------------------------------------------------


def test_an_unknown_precision_is_refused():
    with pytest.raises(
        ConfigurationError, match=r"dtype torch\.int8: choose one of torch.float32"
    ):
        tiny_flow().sample(2, dtype=torch.int8)
