"""Calibration: what it measures, what it picks, and where its plans are kept."""

import json
import time
from dataclasses import dataclass

import pytest
import torch

from tarflow import (
    CheckpointError,
    ConfigurationError,
    ContextError,
    DecodeOptions,
    Decoder,
    ExampleSeeds,
    Jacobi,
    LinearGuidance,
    PerTransform,
    Sequential,
    TarFlow,
)
from tarflow.sampling.calibration import calibrate, fastest
from tarflow.sampling.plan import Conditions, Measurement, Plan, Planned, read_plans
from tarflow.sampling.race import Limited, TooSlow

from .models import randomized

GUIDANCE = LinearGuidance(1.0)


@pytest.fixture
def flow() -> TarFlow:
    """Sixteen positions, two transforms."""
    flow = TarFlow(8, 2, 1, 2, 1, model_dim=16, head_dim=8, num_classes=3)
    return randomized(flow, std=0.1).eval()


@pytest.fixture
def plan(flow) -> Plan:
    """A plan for two samples."""
    label = torch.tensor([0, 2])
    return calibrate(flow, 2, label, guidance=GUIDANCE, windows=(4, 99), repetitions=2)


def measurement(decoder: Decoder, seconds: float, residual: float = 1e-4) -> Measurement:
    """What one decoder took."""
    return Measurement(0, decoder, seconds, 5, residual)


SEQUENTIAL = measurement(Sequential(), 1.0)


def test_every_transform_is_measured_with_every_decoder(plan):
    expected = [Sequential(), Jacobi(4), Jacobi(15)]
    assert [m.decoder for m in plan.measurements] == expected * 2
    assert [m.depth for m in plan.measurements] == [0] * 3 + [1] * 3
    for m in plan.measurements:
        if m.seconds < torch.inf:
            assert 0 < m.passes <= 15
            assert m.residual <= 1e-3
    assert len(plan.decoder.decoders) == 2


def test_samples_of_a_plan_are_those_of_sequential_decoding(flow, plan):
    windows = PerTransform((Jacobi(4), Jacobi(15)))
    label, source = torch.tensor([0, 2]), ExampleSeeds(7, range(2))
    expected = flow.sample(2, label, guidance=GUIDANCE, source=source)
    for decoder in (plan.decoder, windows):
        x, report = flow.sample(
            2, label, guidance=GUIDANCE, source=source, decoder=decoder, return_report=True
        )
        assert report.certified.all()
        torch.testing.assert_close(x, expected, rtol=0, atol=0.05)


def test_the_plan_is_no_slower_than_sequential_when_measured(plan):
    assert 0 < plan.seconds <= plan.sequential_seconds


def test_the_fastest_within_tolerance_is_picked():
    results = [
        SEQUENTIAL,
        measurement(Jacobi(8), 0.5),
        measurement(Jacobi(16), 0.3),
        measurement(Jacobi(32), 0.2, residual=2e-3),
        measurement(Jacobi(64), torch.inf, residual=torch.inf),
    ]
    assert fastest(results) == Jacobi(16)


@pytest.mark.parametrize("seconds", [0.96, 1.0, 2.0, torch.inf])
def test_what_is_not_clearly_faster_than_sequential_is_not_picked(seconds):
    assert fastest([SEQUENTIAL, measurement(Jacobi(8), seconds)]) == Sequential()


def test_a_decoder_that_takes_too_long_is_given_up():
    def predict(x, start):
        time.sleep(0.01)
        raise AssertionError("the first prediction is in time, and there is a second")

    late = Limited(Jacobi(4, 1e-2), -1.0)
    assert late.tolerance == 1e-2
    with torch.no_grad(), pytest.raises(TooSlow):
        late(predict, torch.zeros(1, 8, 2))


def test_what_cannot_be_measured_is_refused(flow):
    with pytest.raises(ConfigurationError, match="batch_size 0"):
        calibrate(flow, 0)
    with pytest.raises(ConfigurationError, match="repetitions 0"):
        calibrate(flow, 1, repetitions=0)
    with pytest.raises(ContextError, match="null prediction"):
        calibrate(flow, 1, guidance=GUIDANCE)


def test_a_plan_is_read_back_as_it_was_saved(plan, tmp_path):
    slow = Measurement(0, Jacobi(8), torch.inf, 0, torch.inf)
    plan = Plan(plan.conditions, plan.decoder, 0.5, 1.0, (*plan.measurements, slow))
    path = plan.save(tmp_path)
    assert read_plans(tmp_path) == [plan]
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no Infinity: not JSON


def conditions(flow, **changes) -> Conditions:
    """Conditions of two samples, but for some changes."""
    options = DecodeOptions(changes.pop("guidance", GUIDANCE), dtype=changes.pop("dtype", None))
    return Conditions.of(flow, **{"batch_size": 2, "options": options, **changes})


def test_plans_of_other_conditions_are_kept(flow, tmp_path):
    sequential, windows = PerTransform((Sequential(),) * 2), PerTransform((Jacobi(4),) * 2)
    for size in (2, 3):
        Plan(conditions(flow, batch_size=size), sequential, 1.0, 1.0).save(tmp_path)
    newer = Plan(conditions(flow), windows, 0.5, 1.0)
    newer.save(tmp_path)
    plans = read_plans(tmp_path)
    assert [plan.conditions.batch_size for plan in plans] == [3, 2]
    assert Planned().choose(tmp_path, conditions(flow))[0] == newer.decoder


CHANGES = {
    "batch_size": {"batch_size": 3},
    "guidance": {"guidance": LinearGuidance(2.0)},
    "dtype": {"dtype": torch.float16},
    "tolerance": {"tolerance": 1e-2},
    "weights": {"weights": "other"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_plan_holds_for_its_conditions_alone(flow, tmp_path, name):
    windows = PerTransform((Jacobi(4), Sequential()))
    Plan(conditions(flow), windows, 0.5, 1.0).save(tmp_path)
    decoder, message = Planned().choose(tmp_path, conditions(flow))
    assert (decoder, "2.00 x" in message) == (windows, True)
    decoder, message = Planned().choose(tmp_path, conditions(flow, **CHANGES[name]))
    assert decoder == Sequential()
    assert (
        f"tarflow calibrate` to find out what is fastest here (the nearest plan is for {name}"
        in (message)
    )


def test_other_threads_are_other_hardware(flow):
    before, threads = conditions(flow), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert conditions(flow) != before
    finally:
        torch.set_num_threads(threads)
    assert conditions(flow) == before


def test_guidance_of_weight_zero_is_none(flow):
    off = conditions(flow, guidance=LinearGuidance(0.0))
    assert off == conditions(flow, guidance=None)


def test_without_plans_decoding_is_sequential(flow, tmp_path):
    decoder, message = Planned().choose(tmp_path, conditions(flow))
    assert decoder == Sequential()
    assert "nearest" not in message


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 3, "plans": []}',
        '{"format": 1, "plans": [{}]}',
        '{"format": 1, "plans": 3}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "plans.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"plans\.json .*tarflow calibrate"):
        read_plans(tmp_path)


@pytest.mark.parametrize("name", ["Anything", "TarFlow", "PerTransform"])
def test_no_other_class_is_ever_made_from_a_plan(flow, tmp_path, name):
    Plan(conditions(flow), PerTransform((Sequential(),)), 1.0, 1.0).save(tmp_path)
    path = tmp_path / "plans.json"
    path.write_text(path.read_text().replace("Sequential", name))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_plans(tmp_path)


@dataclass(frozen=True)
class Backwards(Decoder):
    """A decoder of somebody else's."""

    strength: int = 3

    def __call__(self, predict, z):
        return Sequential()(predict, z)


def test_a_plan_may_name_a_decoder_of_another_package(flow, tmp_path):
    plan = Plan(conditions(flow), PerTransform((Backwards(5), Jacobi(4))), 1.0, 1.0)
    plan.save(tmp_path)
    assert read_plans(tmp_path) == [plan]


def test_windows_are_those_of_each_transform():
    sizes = {"num_transforms": 2, "num_layers": 1, "model_dim": 16, "head_dim": 8}
    flow = randomized(TarFlow(8, (4, 2), 1, **sizes), std=0.1).eval()
    plan = calibrate(flow, 1, windows=(2, 8, 99), repetitions=1)
    assert [(m.depth, m.decoder) for m in plan.measurements] == [
        (0, Sequential()),
        *((0, Jacobi(window)) for window in (2, 8, 15)),
        (1, Sequential()),
        *((1, Jacobi(window)) for window in (2, 3)),
    ]
