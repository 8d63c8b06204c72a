"""Steps that are recorded: the same numbers as steps as they are written, whatever the flow."""

import gc
import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from tarflow import (
    Affine,
    Context,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
    Networks,
    SoftClipScale,
    SoftplusScale,
    SplineScale,
    StartToken,
    UnitScale,
)
from tarflow.flows import autoregressive
from tarflow.flows.decoding import DecodeOptions
from tarflow.flows.stepping import RecordedPrediction
from tarflow.nn import recording
from tarflow.nn.products import REORDER, has_half_kernels

from .models import NETWORKS, randomized, tiny_flow

pytestmark = pytest.mark.skipif(REORDER is None, reason="torch has no packed products here")

LABEL = torch.tensor([0, 2, -1, 1, 1])


@dataclass(frozen=True, repr=False)
class Choosing(LinearGuidance):
    """A rule that chooses by what it is given, which a recording would not."""

    def __call__(self, conditional: Affine, null: Affine, weight: torch.Tensor) -> Affine:
        far = (conditional.shift - null.shift).abs().max() > 0.05
        return super().__call__(conditional, null, weight if far else 0 * weight)


@pytest.fixture(autouse=True)
def none_recorded():
    """Start with nothing recorded."""
    recording.RECORDINGS.clear()
    recording.FAILED.clear()


def decoded(flow, z, label, options, monkeypatch, recorded=True):
    """Decode, with recorded steps or without."""
    with monkeypatch.context() as patch, torch.no_grad():
        if not recorded:
            patch.setattr(autoregressive, "stepping", lambda prediction: prediction)
        return flow.decode(z, label, options=options)


def assert_recording_changes_nothing(flow, label, options, monkeypatch, batch=5, made=1):
    """Decode twice with what is recorded, and once without."""
    z = torch.randn(batch, *flow.base.shape)
    options = options.prepared()
    expected = decoded(flow, z, label, options, monkeypatch, recorded=False)
    assert not recording.RECORDINGS
    for _ in range(2):
        found = decoded(flow, z, label, options, monkeypatch)
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.log_det, expected.log_det)
        assert torch.equal(found.report.residual, expected.report.residual)
    assert len(recording.RECORDINGS) == made
    assert not recording.FAILED


@pytest.mark.parametrize("batch", [1, 5, 20])
@pytest.mark.parametrize(
    "guidance",
    [
        None,
        LinearGuidance(1.0, temperature=0.7, schedule=LinearSchedule()),
        LinearGuidance(1.0, on_log_scale=False),
        LinearScaleGuidance(20.0),  # of negative scales
        GaussianGuidance(1.0, depths=None),
    ],
)
def test_every_rule_is_recorded(guidance, batch, monkeypatch):
    flow, label = tiny_flow(num_classes=3), LABEL.repeat(4)[:batch]
    options = DecodeOptions(guidance)
    assert_recording_changes_nothing(flow, label, options, monkeypatch, batch)


@pytest.mark.parametrize(
    "scale", [SoftClipScale(1.0), SoftplusScale(), UnitScale(), SplineScale(3)]
)
def test_every_scale_is_recorded(scale, monkeypatch):
    flow = tiny_flow(num_classes=3, scale=scale)
    assert_recording_changes_nothing(flow, LABEL, DecodeOptions(LinearGuidance(1.0)), monkeypatch)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_recorded(name, monkeypatch):
    flow = tiny_flow(num_classes=3, **NETWORKS[name])
    options = DecodeOptions(LinearGuidance(1.0))
    assert_recording_changes_nothing(flow, LABEL, options, monkeypatch)


def test_an_attention_temperature_and_a_start_are_recorded(monkeypatch):
    flow = tiny_flow(num_classes=3, first=StartToken())
    context = Context(LABEL, temperature=torch.tensor([1.0, 0.3, 3.0, 1.0, 0.5]))
    options = DecodeOptions(LinearGuidance(1.0, temperature=0.5))
    assert_recording_changes_nothing(flow, context, options, monkeypatch)


def test_windows_of_one_are_recorded_and_others_are_not(monkeypatch):
    flow = tiny_flow(num_classes=3)
    assert_recording_changes_nothing(flow, LABEL, DecodeOptions(None, Jacobi(1)), monkeypatch)
    recording.RECORDINGS.clear()
    options = DecodeOptions(None, Jacobi(3))
    assert_recording_changes_nothing(flow, LABEL, options, monkeypatch, made=0)


def test_networks_of_one_kind_share_what_was_recorded_and_others_do_not(monkeypatch):
    flow, z = tiny_flow(num_classes=3), torch.randn(5, 4, 8)
    other, larger = tiny_flow(num_classes=3), tiny_flow(num_classes=3, num_layers=3)
    networks, made = Networks(), []
    for each in (flow, other, larger):
        expected = decoded(each, z, LABEL, DecodeOptions(), monkeypatch, recorded=False)
        found = decoded(each, z, LABEL, DecodeOptions(networks=networks), monkeypatch)
        assert torch.equal(found.x, expected.x)
        made.append(len(recording.RECORDINGS))
    assert made == [1, 1, 2]
    for guidance in (LinearGuidance(1.0), LinearGuidance(2.0, schedule=LinearSchedule())):
        options = DecodeOptions(guidance, networks=networks)
        decoded(flow, z, LABEL, options, monkeypatch)
    assert len(recording.RECORDINGS) == 3


def test_changed_weights_are_those_that_count(monkeypatch):
    flow, z = tiny_flow(num_classes=3), torch.randn(5, 4, 8)
    options = DecodeOptions().prepared()
    before = decoded(flow, z, LABEL, options, monkeypatch)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.1)
    after = decoded(flow, z, LABEL, options, monkeypatch)
    expected = decoded(flow, z, LABEL, options, monkeypatch, recorded=False)
    assert torch.equal(after.x, expected.x)
    assert not torch.equal(after.x, before.x)


def test_what_may_choose_by_content_is_not_recorded(monkeypatch):
    flow = tiny_flow(num_classes=3)
    options = DecodeOptions(Choosing(1.0))
    assert_recording_changes_nothing(flow, LABEL, options, monkeypatch, made=0)
    torch.nn.utils.parametrizations.weight_norm(flow.transform[1].network.proj_in)
    assert_recording_changes_nothing(flow, LABEL, DecodeOptions(), monkeypatch, made=1)


def test_many_rows_are_not_recorded(monkeypatch):
    flow, label = tiny_flow(num_classes=3), LABEL.repeat(26)
    assert_recording_changes_nothing(flow, label, DecodeOptions(), monkeypatch, 130, made=0)
    guided, label = DecodeOptions(LinearGuidance(1.0)), label[:65]  # of two rows each
    assert_recording_changes_nothing(flow, label, guided, monkeypatch, 65, made=0)


def test_where_nothing_can_be_recorded_steps_run_as_they_are(monkeypatch, caplog):
    flow, z = tiny_flow(num_classes=3), torch.randn(5, 4, 8)
    expected = decoded(flow, z, LABEL, DecodeOptions(), monkeypatch, recorded=False)
    monkeypatch.delattr(torch.jit, "trace")
    with caplog.at_level(logging.WARNING):
        found = [decoded(flow, z, LABEL, DecodeOptions(), monkeypatch) for _ in range(2)]
    assert all(torch.equal(each.x, expected.x) for each in found)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "single steps run as they are written"
    ]


def test_recordings_stay_without_weights_and_are_bounded(monkeypatch):
    monkeypatch.setattr(recording, "MOST", 2)
    monkeypatch.setattr(recording, "MOST_KINDS", 2)
    options = DecodeOptions().prepared()
    flow = tiny_flow(num_classes=3)
    for batch in (1, 2, 3):
        z = torch.randn(batch, *flow.base.shape)
        decoded(flow, z, LABEL[:batch], options, monkeypatch)
    assert options.networks is not None
    ready = [each.ready for each in options.networks.prepared.values()]
    assert all(1 <= len(each.recorder.kept) <= 2 for each in ready)
    kept = [weakref.ref(each.network) for each in ready]
    del options, ready
    gc.collect()
    assert [each() for each in kept] == [None] * len(kept)
    assert len(recording.RECORDINGS) == 2
    for each in recording.RECORDINGS.values():
        assert not sum(weight.numel() for _, weight in each.named_buffers())
    assert not recording.USED


def test_a_flow_that_changes_is_recorded_once(monkeypatch):
    recording.RECORDINGS.clear()
    flow, z = tiny_flow(num_classes=3), torch.randn(3, 4, 8)
    made = []
    trace = torch.jit.trace
    monkeypatch.setattr(torch.jit, "trace", lambda *a, **k: made.append(1) or trace(*a, **k))
    for seed in range(3):
        randomized(flow, 0.01, seed)
        expected = decoded(flow, z, LABEL[:3], DecodeOptions(), monkeypatch, recorded=False)
        found = decoded(flow, z, LABEL[:3], DecodeOptions(), monkeypatch)
        assert torch.equal(found.x, expected.x)
    assert len(made) == 1


@pytest.mark.skipif(not has_half_kernels(), reason="torch has no products of float16 weights here")
def test_packed_weights_that_are_no_tensors_are_recorded(monkeypatch):
    flow, other = tiny_flow(num_classes=3), randomized(tiny_flow(num_classes=3), seed=1)
    z = torch.randn(5, *flow.base.shape)
    for each in (flow, other):
        options = DecodeOptions(networks=Networks("float16_weights"))
        expected = decoded(each, z, LABEL, options, monkeypatch, recorded=False)
        found = decoded(each, z, LABEL, options, monkeypatch)
        assert torch.equal(found.x, expected.x)
        assert not recording.FAILED


def test_threads_record_and_decode_at_once(monkeypatch):
    flow, z = tiny_flow(num_classes=3), torch.randn(5, 4, 8)
    expected = decoded(flow, z, LABEL, DecodeOptions(), monkeypatch, recorded=False).x
    options = DecodeOptions().prepared()

    def run(rows: int) -> bool:
        with torch.no_grad():
            x = flow.decode(z[:rows], LABEL[:rows], options=options).x
        return bool(torch.allclose(x, expected[:rows], atol=1e-6))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, [1, 2, 3, 4, 5] * 4))


def test_what_is_recorded_is_found_again_by_a_step(monkeypatch):
    flow, calls = tiny_flow(num_classes=3), []
    plain = RecordedPrediction._record

    def record(self, x, position, z):
        calls.append(int(position))
        plain(self, x, position, z)

    monkeypatch.setattr(RecordedPrediction, "_record", record)
    decoded(flow, torch.randn(5, 4, 8), LABEL, DecodeOptions(), monkeypatch)
    assert calls == [1] * flow.transform.num_decoded
