"""Decoders of other papers are those of their equations; exponents are those of a regression."""

import math

import pytest
import torch
from scipy.stats import linregress

from benchmarks import measuring, modes
from benchmarks.peers import WHOLE, FixedIterations, WholeUntil, gs_jacobi, selective_jacobi
from benchmarks.precision import PRECISIONS
from benchmarks.sampling_results import Exponent, LengthResults, PeerResults
from tarflow import LinearGuidance, Sequential
from tarflow.flows.decoding import DecodeOptions
from tarflow.nn.networks import Networks
from tarflow.sampling.calibration import calibrate
from tests.models import tough_flow
from tests.test_benchmarks import machine, measurement

LENGTH = 24


@pytest.fixture(scope="module")
def flow():
    return tough_flow(length=LENGTH).double()


@pytest.fixture(scope="module")
def z():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, LENGTH, 2, dtype=torch.float64, generator=generator)


@torch.no_grad()
def decode(flow, z, decoder):
    """Guided samples, and how many passes each transform took."""
    guidance = LinearGuidance(0.5)
    found = flow.decode(z, torch.arange(3), guidance=guidance, decoder=decoder)
    return found.x, found.report.passes


def deviations(flow, z, decoders):
    """The largest deviation from sequential samples by each decoder."""
    exact, _ = decode(flow, z, Sequential())
    return [float((decode(flow, z, each)[0] - exact).abs().max()) for each in decoders]


def iterated(transform, z, context, test):
    """Jacobi iteration on a whole sequence as the equation says, until a test of the change."""
    x, passes = z.clone(), 0
    while passes < z.shape[1] - 1:
        maps = transform.predict(transform.network, context, z)(x[:, :-1], 0)
        new = z[:, 1:] * maps.log_scale.exp() + maps.shift
        change, passes = (new - x[:, 1:]).abs().max(), passes + 1
        x = torch.cat([z[:, :1], new], dim=1)
        if test(passes, change):
            break
    return x


@pytest.mark.parametrize(
    ("decoder", "test"),
    [
        (FixedIterations(WHOLE, 3), lambda passes, change: passes == 3),
        (FixedIterations(WHOLE, 99), lambda passes, change: False),
        (WholeUntil(0.05), lambda passes, change: change < 0.05),
    ],
)
@torch.no_grad()
def test_iteration_is_that_of_the_equation(flow, z, decoder, test):
    transform = flow.transform.transforms[1]
    context = flow.sampling_context(torch.arange(3), z)
    expected = iterated(transform, z, transform.known(context), test)
    found = transform.inverse(z, context, DecodeOptions(decoder=decoder)).x
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_with_as_many_iterations_as_positions_gs_jacobi_is_exact(flow, z):
    counts = (1, 2, 4, 8, LENGTH)
    found = deviations(flow, z, [gs_jacobi(0, 2, 6, count) for count in counts])
    assert found[0] > 1e-2
    assert found[0] > 2 * found[2] > 4 * found[3]
    assert found[-1] < 1e-12
    _, passes = decode(flow, z, gs_jacobi(0, 2, 6, 4))
    assert passes == (4 * 4, 4)  # four windows in the tough transform, one in the other


def test_samples_that_overflow_deviate_infinitely_and_end_nothing():
    flow, float32 = tough_flow(std=2.0, length=LENGTH), PRECISIONS["float32"]
    networks, decoder = Networks(torch.float32), gs_jacobi(0, 2, 6, 12)
    mode = modes.decoding("GS-Jacobi, 12", flow, float32, networks, decoder)
    run = measuring.Run(mode, float32, *modes.draw(flow, 3))
    x = run()
    assert not x.isfinite().any()
    case = modes.Case(1, LENGTH, 3, (float32,), 1)
    found = measuring.summarize(flow, case, run, machine(), 1.0, x.double(), [1.0])
    assert found.rms == found.maximum == math.inf


def test_selective_jacobi_gets_closer_with_its_threshold(flow, z):
    thresholds = (0.5, 1e-2, 1e-4, 0.0)
    found = deviations(flow, z, [selective_jacobi(2, each) for each in thresholds])
    assert found == sorted(found, reverse=True)
    assert found[0] > 1e-2
    assert found[2] < 1e-3
    assert found[3] < 1e-12
    assert decode(flow, z, selective_jacobi(2, 0.0))[1] == (LENGTH - 1, LENGTH - 1)
    assert decode(flow, z, selective_jacobi(2, 1e9))[1] == (LENGTH - 1, 1)


def test_the_tough_transform_is_the_one_that_takes_most_passes():
    for tough in range(2):
        flow = tough_flow(length=LENGTH)
        easy = flow.transform.transforms[1 if tough == 0 else 3]  # inverted in reverse order
        with torch.no_grad():
            easy.network.proj_out.weight.zero_()
        assert modes.toughest(flow, PRECISIONS["float32"]) == tough


def test_windows_are_the_fastest_of_each_transform():
    flow = tough_flow(length=LENGTH)
    plan = calibrate(flow, 2, torch.arange(2), windows=(2, 8), repetitions=1)
    chosen = modes.fastest_windows(plan, 0.25)
    for depth, decoder in enumerate(chosen.decoders):
        own = [m for m in plan.measurements if m.depth == depth and m.decoder != Sequential()]
        seconds = {each.decoder.window: each.seconds for each in own}
        assert seconds[decoder.window] == min(seconds.values())
        assert decoder.tolerance == 0.25


def test_decoders_are_compared_at_equal_deviation():
    rows = [
        measurement("sequential", [4.0], rms=0.0),
        measurement("windows, 0.1", [1.0], rms=1e-1),
        measurement("windows, 0.001", [3.0], rms=1e-3),
        measurement("windows, 0.01", [2.0], rms=1e-2),
        measurement("windows, 0.01", [0.1], rms=1e-2, batch_size=1),
    ]
    results = PeerResults({}, machine(), rows)
    assert results.families == ["sequential", "windows"]
    case = rows[0].case
    assert results.fastest(case, "windows", "rms", 1e-2) is rows[3]
    assert results.fastest(case, "windows", "rms", 1e-4) is None
    assert results.fastest(case, "sequential", "rms", 1e-4) is rows[0]


def test_exponents_are_those_of_a_regression():
    lengths, seconds = (64, 256, 1024), (1.0, 5.0, 17.0)
    rows = [
        measurement("baseline", [s, 99.0, 0.0], length=length)
        for length, s in zip(lengths, seconds, strict=True)
    ]
    expected = linregress([math.log(n) for n in lengths], [math.log(s) for s in seconds])
    batches = [measurement("baseline", [b**1.5], batch_size=b, length=64) for b in (1, 4, 8)]
    results = LengthResults({}, machine(), [*rows, *batches])
    over_length, over_batch = results.exponents()
    assert over_length.slope == pytest.approx(expected.slope)
    assert over_length.error == pytest.approx(expected.stderr)
    assert (over_length.over, over_length.fixed, over_length.points) == ("length", 16, 3)
    assert results.series(over_length) == rows
    assert (over_batch.over, over_batch.fixed) == ("batch_size", 64)
    exact = Exponent.fit(batches, "batch_size")
    assert (exact.slope, exact.error) == (pytest.approx(1.5), pytest.approx(0, abs=1e-9))
