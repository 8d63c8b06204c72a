"""The autoregressive transform: causality, and cached prediction against the parallel pass."""

import pytest
import torch

from tarflow import (
    Affine,
    AutoregressiveTransform,
    Context,
    DecodeOptions,
    ExpScale,
    Guidance,
)
from tarflow.flows.autoregressive import Inversion

from .equations import predict
from .models import tiny_autoregressive

LABEL = torch.tensor([1, -1, 2])


@pytest.fixture
def transform() -> AutoregressiveTransform:
    """Eight positions of two numbers, in float64."""
    return tiny_autoregressive(ExpScale(), length=8).double()


@pytest.fixture
def x() -> torch.Tensor:
    """Three sequences for this transform."""
    return torch.randn(3, 8, 2, dtype=torch.float64)


class Mixture(Guidance):
    """Takes the null prediction's scale and the conditional one's shift, and checks weights."""

    def weights(self, position):
        return position

    def __call__(self, conditional, null, weight):
        assert weight.tolist() == [[1], [2], [3]]
        return Affine(null.log_scale, conditional.shift)


def parallel(transform: AutoregressiveTransform, x: torch.Tensor) -> Affine:
    """The maps of positions 1 ... 7, in one pass."""
    raw = transform.network(x[:, :-1], transform.condition(Context(LABEL), x))
    return transform.scale.affine(raw)


def cached_prediction(transform, x: torch.Tensor, guidance: Guidance | None = None):
    """The prediction that decoding solves for."""
    task = Inversion(transform, x, Context(LABEL), DecodeOptions(guidance))
    rows = len(x) * (1 if guidance is None else 2)
    return task.predict(transform.network, transform.network.new_cache(rows))


def assert_close(ours: Affine, expected: Affine, start: int, end: int) -> None:
    """The maps are those expected of the positions `start + 1 ... end`."""
    for name in ("log_scale", "shift"):
        reference = getattr(expected, name)[:, start:end]
        torch.testing.assert_close(getattr(ours, name), reference, rtol=0, atol=1e-12)


def test_forward_is_the_equation_with_what_each_prefix_predicts(transform, x):
    z, log_det = transform(x, Context(LABEL))
    total = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(z[:, 0], x[:, 0])
    for i in range(1, 8):
        log_scale, shift = predict(transform, x[:, :i], LABEL)
        torch.testing.assert_close(z[:, i], (x[:, i] - shift) * torch.exp(-log_scale))
        total = total - log_scale.sum(dim=1)
    torch.testing.assert_close(log_det, total)


@pytest.mark.parametrize("name", ["log_scale", "shift"])
def test_a_map_depends_on_every_earlier_position_and_no_other(transform, x, name):
    def parameters(row):
        affine = parallel(transform, row.expand(3, -1, -1)).after_first()
        return getattr(affine, name)[0]

    jacobian = torch.autograd.functional.jacobian(parameters, x[0])
    depends = (jacobian != 0).any(dim=3).any(dim=1)
    assert torch.equal(depends, torch.ones(8, 8).tril(-1).bool())


@pytest.mark.parametrize("window", [1, 3, 7])
def test_windows_predict_what_the_parallel_pass_does(transform, x, window):
    with torch.no_grad():
        prediction = cached_prediction(transform, x)
        for start in range(0, 7, window):
            end = min(start + window, 7)
            affine = prediction(x[:, start:end], start)
            assert_close(affine, parallel(transform, x), start, end)


def test_a_window_can_be_rewritten(transform, x):
    with torch.no_grad():
        prediction = cached_prediction(transform, x)
        prediction(x[:, :2], 0)
        wrong = prediction(torch.zeros_like(x[:, 2:6]), 2)
        assert not torch.allclose(wrong.shift, parallel(transform, x).shift[:, 2:6])
        for start, end in ((2, 6), (4, 6), (6, 7)):
            assert_close(prediction(x[:, start:end], start), parallel(transform, x), start, end)


def test_a_guided_window_is_the_rule_on_two_predictions(transform, x):
    with torch.no_grad():
        affine = cached_prediction(transform, x, Mixture(1.0))(x[:, :3], 0)
    _, shift = predict(transform, x[:, :3], LABEL)
    null_log_scale, _ = predict(transform, x[:, :3], torch.full((3,), -1))
    torch.testing.assert_close(affine.shift[:, 2], shift)
    torch.testing.assert_close(affine.log_scale[:, 2], null_log_scale)


def test_no_label_means_the_null_class(transform, x):
    null = Context(torch.full((3,), -1))
    assert torch.equal(transform(x, Context())[0], transform(x, null)[0])
    assert not torch.allclose(transform(x, Context(LABEL))[0], transform(x, null)[0])


def test_the_temperature_of_a_context_tempers_its_example(transform, x):
    tempered = Context(LABEL, torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))
    changed = transform(x, tempered)[0] - transform(x, Context(LABEL))[0]
    assert changed.abs().amax(dim=(1, 2)).gt(1e-6).tolist() == [False, True, False]
