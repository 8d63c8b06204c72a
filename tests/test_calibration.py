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
    Networks,
    PerTransform,
    Sequential,
    TarFlow,
)
from tarflow.flows.decoding import Predict
from tarflow.sampling.calibration import calibrate, choose, fastest
from tarflow.sampling.plan import Conditions, Measurement, Plan, Planned, Trial, read_plans
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
    class Slow(Predict):
        def __call__(self, x, start):
            time.sleep(0.01)
            raise AssertionError("the first prediction is in time, and there is a second")

    late = Limited(Jacobi(4, 1e-2), -1.0)
    assert late.tolerance == 1e-2
    with torch.no_grad(), pytest.raises(TooSlow):
        late(Slow(), torch.zeros(1, 8, 2))


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


# --- The precision, within a deviation ----------------------------------------------------------

PLAIN, WINDOWS = PerTransform((Sequential(),)), PerTransform((Jacobi(4),))
EXACT = Trial("float32", PLAIN, 1.0, 0.0)


def trial(precision: str, seconds: float, deviation: float) -> Trial:
    """What decoding sequentially took."""
    return Trial(precision, PLAIN, seconds, deviation)


@pytest.mark.parametrize(
    ("others", "accepted", "chosen"),
    [
        ([], 0.1, EXACT),
        ([trial("bfloat16", 0.5, 0.02)], 0.1, trial("bfloat16", 0.5, 0.02)),
        ([trial("bfloat16", 0.5, 0.02)], 0.02, trial("bfloat16", 0.5, 0.02)),
        ([trial("bfloat16", 0.5, 0.02)], 0.01, EXACT),
        ([trial("bfloat16", 0.96, 0.02)], 0.1, EXACT),
        ([trial("bfloat16", 2.0, 0.02)], 0.1, EXACT),
        ([trial("bfloat16", 0.5, torch.inf)], 0.1, EXACT),
        (
            [trial("bfloat16", 0.5, 0.02), trial("float16_weights", 0.6, 2e-4)],
            0.01,
            trial("float16_weights", 0.6, 2e-4),
        ),
        # A window that is faster, but off by more; and one that another precision barely beats.
        ([Trial("float32", WINDOWS, 0.5, 2e-2)], 0.01, EXACT),
        (
            [Trial("float32", WINDOWS, 0.5, 2e-4), trial("bfloat16", 0.49, 1e-3)],
            0.01,
            Trial("float32", WINDOWS, 0.5, 2e-4),
        ),
        (
            [trial("bfloat16", 0.5, 2e-2), Trial("bfloat16", WINDOWS, 0.4, 0.2)],
            0.1,
            trial("bfloat16", 0.5, 2e-2),
        ),
    ],
)
def test_the_fastest_way_within_the_deviation_is_chosen(others, accepted, chosen):
    assert choose([EXACT, *others], accepted) == chosen


NAMES = ["float32", "bfloat16", "bfloat16_products", "float16_weights"]


@pytest.fixture(scope="module")
def compared() -> tuple[TarFlow, Plan]:
    """A flow, and its plan among all precisions of one decoder."""
    flow = TarFlow(4, 2, 1, 2, 1, model_dim=16, head_dim=8, num_classes=3)
    flow = randomized(flow, std=0.1).eval()
    label = torch.tensor([0, 2, 1])
    told = {"guidance": GUIDANCE, "windows": (), "repetitions": 1, "precisions": NAMES[1:]}
    return flow, calibrate(flow, 3, label, deviation=10.0, seed=5, **told)


def test_every_precision_is_compared_with_exact_samples(compared):
    flow, plan = compared
    assert [each.precision for each in plan.trials] == NAMES
    assert [m.precision for m in plan.measurements] == [n for n in NAMES for _ in range(2)]
    label, noise = torch.tensor([0, 2, 1]), ExampleSeeds(5, range(18))
    z = flow.base.sample(18, noise)  # six batches: no fewer than 16 samples

    def decoded(name: str) -> torch.Tensor:
        told = {"guidance": GUIDANCE, "networks": Networks(name)}
        with torch.no_grad():  # other batches may round otherwise: they take other kernels
            return torch.cat([flow.inverse(part, label, **told) for part in z.split(3)])

    for each in plan.trials:
        gap = (decoded(each.precision) - decoded("float32")).square().mean().sqrt()
        assert each.deviation == pytest.approx(float(gap), rel=0.05, abs=1e-6)
    off = {each.precision: each.deviation for each in plan.trials}
    assert 0 == off["float32"] < off["float16_weights"] < off["bfloat16"] < 1


def test_the_plan_is_the_way_that_was_chosen(compared):
    plan = compared[1]
    assert plan.accepted == 10.0
    best = choose(plan.trials, 10.0)
    assert (plan.conditions.dtype, plan.decoder) == (best.precision, best.decoder)
    assert (plan.seconds, plan.deviation) == (best.seconds, best.deviation)
    assert plan.sequential_seconds == plan.trials[0].seconds
    within = Plan(plan.conditions, plan.decoder, 0.5, 1.0, (), 0.1, plan.trials)
    told = "2.00 x exact sequential, and off by "
    assert f"in {best.precision}: {told}" in within.told
    assert "accepted: 0.1" in within.told


def test_a_deviation_that_none_keeps_leaves_exact_decoding(compared):
    flow, _ = compared
    told = {"windows": (), "repetitions": 1, "precisions": ["bfloat16"]}
    plan = calibrate(flow, 16, None, deviation=1e-9, **told)
    assert plan.conditions.dtype == "float32"
    assert plan.deviation == 0.0


def test_precisions_that_are_no_lower_are_not_measured(flow):
    told = {"windows": (), "repetitions": 1, "deviation": 0.1}
    plan = calibrate(flow, 1, precisions=["float32", "float64", torch.float32], **told)
    assert [each.precision for each in plan.trials] == ["float32"]
    plan = calibrate(flow.double(), 1, precisions=["float32"], **told)
    assert [each.precision for each in plan.trials] == ["float64", "float32"]
    assert 0 < plan.trials[1].deviation < 1e-4


@pytest.mark.parametrize(
    ("told", "message"),
    [
        *(({"deviation": d}, "positive and finite") for d in (0.0, -1.0, torch.inf, torch.nan)),
        ({"deviation": 0.1, "dtype": torch.bfloat16}, r"dtype torch.bfloat16 .*give one"),
        ({"deviation": 0.1, "precisions": ["float31"]}, "dtype float31: choose one"),
        ({"deviation": 0.1, "precisions": "bfloat16"}, "are not a list of names"),
        ({"precisions": ["bfloat16"]}, "precisions are chosen from within a deviation"),
    ],
)
def test_a_wrong_choice_of_precisions_is_refused(flow, told, message):
    with pytest.raises(ConfigurationError, match=message):
        calibrate(flow, 1, **told)


def chosen_plan(flow, precision: str, accepted: float | None = 0.1) -> Plan:
    """A plan of windows, in some precision that was chosen, or told."""
    windows = PerTransform((Jacobi(4), Sequential()))
    trials = (Trial(precision, windows, 0.5, torch.inf),) if accepted else ()
    own = conditions(flow, dtype=getattr(torch, precision))
    return Plan(own, windows, 0.5, 1.0, (SEQUENTIAL,), accepted, trials)


def test_a_plan_with_a_precision_is_read_back_and_others_are_as_ever(flow, tmp_path):
    plain = chosen_plan(flow, "float16", None)
    content = json.loads(plain.save(tmp_path).read_text())
    assert content["format"] == 1
    [saved] = content["plans"]
    assert not {"accepted", "trials"} & set(saved)
    assert "precision" not in saved["measurements"][0]
    chosen = chosen_plan(flow, "bfloat16")
    path = chosen.save(tmp_path)
    assert json.loads(path.read_text())["format"] == 2
    assert read_plans(tmp_path) == [plain, chosen]


def test_the_latest_plan_tells_the_precision_unless_that_is_told(flow, tmp_path):
    own = conditions(flow)
    assert Planned().settle(tmp_path, own) == own
    chosen_plan(flow, "bfloat16").save(tmp_path)
    settled = Planned().settle(tmp_path, own)
    assert settled == conditions(flow, dtype=torch.bfloat16)
    assert Planned().choose(tmp_path, settled)[0] == chosen_plan(flow, "bfloat16").decoder
    assert Planned().choose(tmp_path, own)[0] == Sequential()
    other = conditions(flow, batch_size=3)
    assert Planned().settle(tmp_path, other) == other
    chosen_plan(flow, "float16", None).save(tmp_path)  # told, not chosen
    assert Planned().settle(tmp_path, own) == settled
    Plan(own, PerTransform((Sequential(),) * 2), 1.0, 1.0).save(tmp_path)
    assert Planned().settle(tmp_path, own) == own
    chosen_plan(flow, "bfloat16").save(tmp_path)
    assert Planned().settle(tmp_path, own) == settled
