"""Labels of any integer dtype mean the same, wherever they are passed."""

import pytest
import torch

from tarflow import (
    ContextError,
    ExampleSeeds,
    GaussianNoise,
    LinearGuidance,
    UniformDequantization,
    denoise,
)
from tarflow.data.loading.batches import Batch
from tarflow.editing import CrankNicolson, Hamiltonian, inpaint, interpolate
from tarflow.flows.conditioning import with_dropout
from tarflow.flows.context import Context
from tarflow.randomness import Share
from tarflow.sampling.drawing import sample_batches
from tarflow.training.objective import MaximumLikelihood

from .models import tiny_flow

LABELS = [0, 2, 1]


@pytest.fixture(scope="module")
def flow():
    """With everything that a function may ask for."""
    codec, noise = UniformDequantization(256), GaussianNoise(0.1)
    sizes = {"num_transforms": 1, "num_layers": 1}
    return tiny_flow(num_classes=3, codec=codec, noise=noise, **sizes).eval()


def everything(flow, label):
    """What is computed of labels, by name."""
    seeds, z = ExampleSeeds(0, range(3)), flow.base.sample(3, ExampleSeeds(1, range(3)))
    x = flow.inverse(z, label)
    mask = torch.arange(4) < 2
    sampler, walk = Hamiltonian(1, 1, num_leapfrog=1), CrankNicolson(1, 1)
    with torch.no_grad():
        return {
            "inverse": x,
            "log_prob": flow.log_prob(x, label),
            "in a dictionary": flow.log_prob(x, {"label": label}),
            "score": flow.score(x, label),
            "sample": flow.sample(3, label, source=seeds),
            "guided": flow.sample(3, label, source=seeds, guidance=LinearGuidance(1.0)),
            "sample_and_log_prob": flow.sample_and_log_prob(3, label, source=seeds)[1],
            "stop_gradient_inverse": flow.stop_gradient_inverse(x, label),
            "denoise": denoise(flow, x, label, max_batch=2),
            "interpolate": interpolate(flow, x, x.flip(0), 3, label),
            "inpaint": inpaint(flow, x, mask, label, sampler=sampler, source=seeds).x,
            "walk": inpaint(flow, x, mask, label, sampler=walk, source=seeds).x,
        }


@pytest.fixture(scope="module")
def expected(flow):
    """That of integers of 64 bits."""
    return everything(flow, torch.tensor(LABELS))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_labels_of_any_kind_of_integer_mean_the_same(flow, expected, dtype):
    found = everything(flow, torch.tensor(LABELS, dtype=dtype))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_training_and_batches_take_them_too(flow, dtype):
    def found(label):
        x = torch.arange(3 * 2 * 4 * 4).view(3, 2, 4, 4).to(torch.uint8)
        batch, source = Batch(x, Context(label=label), torch.arange(3)), Share(0, 0, 3)
        objective = MaximumLikelihood(class_dropout=0.5)
        loss = objective(flow, batch, source).value
        validated = objective.validate(flow, batch, ExampleSeeds(0, range(3)))
        drawn = torch.cat([x for x, _ in sample_batches(flow, 3, label, 0, 2)])
        return [loss, *validated.values(), drawn]

    for ours, theirs in zip(
        found(torch.tensor(LABELS, dtype=dtype)), found(torch.tensor(LABELS)), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint16, torch.uint32, torch.uint64])
def test_a_density_takes_every_integer(flow, expected, dtype):
    found = flow.log_prob(expected["inverse"], torch.tensor(LABELS, dtype=dtype))
    assert torch.equal(found, expected["log_prob"])


def test_no_class_fits_signed_labels(flow):
    x = flow.sample(2, -1)
    expected = flow.log_prob(x, torch.tensor([-1, 2]))
    for dtype in (torch.int8, torch.int16, torch.int32):
        assert torch.equal(flow.log_prob(x, torch.tensor([-1, 2], dtype=dtype)), expected)


def test_dropping_labels_of_bytes(flow):
    label = torch.tensor(LABELS, dtype=torch.uint8)
    dropped = with_dropout(Context(label=label), flow.conditioners, 1.0)
    assert dropped["label"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_a_class_that_is_unknown_is_named(flow, dtype):
    with pytest.raises(ContextError, match="labels go from 0 to 7, but this model knows 0"):
        flow.sample(2, torch.tensor([0, 7], dtype=dtype))
