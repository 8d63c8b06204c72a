"""One example that is not finite is marked and counted; all others are kept."""

import csv
import io
import math
import warnings

import numpy as np
import pytest
import torch

from tarflow import (
    ExampleSeeds,
    GaussianNoise,
    Jacobi,
    LinearGuidance,
    NonFiniteError,
    Pixels,
    Sequential,
    UniformDequantization,
    denoise,
)
from tarflow.editing import CrankNicolson, Hamiltonian, inpaint, interpolate
from tarflow.sampling.certificates import DecodingCertificates
from tarflow.sampling.drawing import sample_batches
from tarflow.sampling.flow_sampler import FlowSampler

from .models import tiny_flow

LABEL = torch.tensor([0, 1, 2, 0])
FINE = [0, 2, 3]
SEEDS = ExampleSeeds(0, range(4))
WAYS = {
    "sequential": {},
    "windows": {"decoder": Jacobi(3, 1e-6)},
    "guided": {"guidance": LinearGuidance(1.0)},
    "bfloat16": {"dtype": torch.bfloat16},
    "certified": {"dtype": torch.bfloat16, "certify": True},
}


@pytest.fixture
def flow():
    """Whose second transform from the data cannot decode class 1."""
    flow = tiny_flow(num_classes=3, codec=Pixels(256), noise=GaussianNoise(0.1)).eval()
    with torch.no_grad():
        flow.transform[3].label_embedding.weight[1] = math.inf
    return flow


def batch(flow, rows, **way):
    """What decoding some rows of a batch gives, and what was warned of."""
    z = flow.base.sample(4, SEEDS)[rows]
    if way.get("guidance"):  # the null prediction is the mean of all classes
        with torch.no_grad():
            flow.transform[3].label_embedding.weight[1] = 1e30
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.no_grad():
            inverse = flow.decode(z, LABEL[rows], **way)
    return inverse, [str(each.message) for each in caught]


@pytest.mark.parametrize("name", [name for name in WAYS if name != "guided"])
def test_the_others_are_what_they_are_without_it(flow, name):
    found, told = batch(flow, [0, 1, 2, 3], **WAYS[name])
    expected, nothing = batch(flow, FINE, **WAYS[name])
    assert found.finite.tolist() == [True, False, True, True]
    assert found.x[1].isnan().all()
    assert found.log_det[1].isnan()
    torch.testing.assert_close(found.x[FINE], expected.x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.log_det[FINE], expected.log_det, rtol=1e-5, atol=1e-4)
    assert found.report.finite.tolist() == [
        [True] * 4,
        [True, False, True, True],
        [True, False, True, True],
    ]
    assert found.report.redone.sum() <= 1  # not again in every transform that follows
    assert nothing == []
    [message] = told
    assert message.startswith(
        "1 of 4 examples are not finite and become NaN, those of index 1; the others are kept (the"
        " inverse of transform 3 (AutoregressiveTransform) is not finite: lower the guidance"
    )


def test_where_all_fail_the_transform_is_named(flow):
    with pytest.raises(NonFiniteError, match="the inverse of transform 3") as caught:
        flow.sample(3, 1)
    assert caught.value.transform == 3


def test_many_are_counted_and_the_first_are_named(flow):
    label = torch.tensor([1] * 7 + [0])
    with pytest.warns(RuntimeWarning, match=r"7 of 8 .* index 0, 1, 2, 3, 4 \.\.\.; the others"):
        x = flow.sample(8, label)
    assert x[7].isfinite().all()


def test_windows_end_for_what_is_broken(flow):
    inverse, _ = batch(flow, [0, 1, 2, 3], decoder=Jacobi(99, 1e-6))
    assert inverse.report.iterations[2, 1] == 1


def test_samples_densities_and_batches(flow):
    with pytest.warns(RuntimeWarning, match="1 of 4"):
        x, log_prob = flow.sample_and_log_prob(4, LABEL, source=SEEDS)
    assert log_prob.isfinite().tolist() == [True, False, True, True]
    torch.testing.assert_close(log_prob[FINE], flow.log_prob(x[FINE], LABEL[FINE]))
    with pytest.warns(RuntimeWarning, match="1 of 4"):
        [(drawn, _)] = sample_batches(flow, 4, LABEL, 0, 4)
    assert torch.equal(drawn[FINE], x[FINE])


def test_gradients_of_the_others(flow):
    z = flow.base.sample(4, SEEDS)

    def gradients(rows):
        leaf = z[rows].clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = flow.inverse(leaf, LABEL[rows])
        loss = x[x.isfinite()].square().sum()
        weight = flow.transform[5].network.proj_out.weight
        return torch.autograd.grad(loss, [leaf, weight])

    (by_z, by_weight), (expected, by_weight_alone) = gradients([0, 1, 2, 3]), gradients(FINE)
    torch.testing.assert_close(by_z[FINE], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_weight, by_weight_alone, rtol=1e-4, atol=1e-4)


def test_denoising_keeps_the_others(flow):
    x = 0.1 * torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match=r"1 of 4 .* index 1; .* \(the output of transform 3"):
        found = denoise(flow, x, LABEL, max_batch=1)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[FINE], denoise(flow, x[FINE], LABEL[FINE]))


def test_denoising_that_overflows_in_float16_is_done_again_in_float32():
    flow = tiny_flow(num_classes=3, noise=GaussianNoise(0.1)).eval()
    with torch.no_grad():  # a hidden unit of the network beyond the largest float16
        mlp = flow.transform[3].network.blocks[0].mlp
        mlp[0].bias[0], mlp[2].weight[:, 0] = 1e5, 1e-6
    x = 0.1 * torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = denoise(flow, x, LABEL, dtype=torch.float16)
    assert found.isfinite().all()
    torch.testing.assert_close(found, denoise(flow, x, LABEL), rtol=1e-2, atol=1e-2)


def test_editing_keeps_the_others(flow):
    z = flow.base.sample(4, SEEDS)
    x = flow.inverse(z[FINE], LABEL[FINE])[[0, 0, 1, 2]]
    with pytest.warns(RuntimeWarning, match="3 of 12"):
        path = interpolate(flow, x, x.flip(0), 3, LABEL)
    assert path.isfinite().flatten(1).all(dim=1).tolist() == [True, False, True, True]
    for sampler in (CrankNicolson(2, 2), Hamiltonian(1, 1, num_leapfrog=2)):
        with pytest.warns(RuntimeWarning, match="1 of 4 .* starts from is not finite"):
            found = inpaint(flow, x, torch.tensor(False), LABEL, sampler=sampler, source=SEEDS)
        assert found.x[FINE].isfinite().all()


@pytest.mark.parametrize("codec", [Pixels(256), UniformDequantization(256), Pixels(1000)])
def test_what_is_not_a_number_is_black(codec):
    x = torch.tensor([math.nan, -math.inf, math.inf, 0.0])
    assert codec.decode(x).tolist()[:3] == [0, 0, codec.levels - 1]


def test_a_sampler_tells_of_each_sample_and_never_stops(flow):
    sampler = FlowSampler(flow, classes=torch.arange(3))
    whole, alone = sampler(range(4)), sampler(range(1, 2))
    why = ["", "transform 1 from the noise", "", ""]
    assert whole["why"].tolist() == why
    assert alone["why"].tolist() == why[1:2]
    assert not whole["samples"][1].any()
    assert not whole["denoised"][1].any()
    joined = DecodingCertificates.join([whole, alone])
    assert str(joined).endswith("2 not finite (black; certificates.csv tells why)")
    rows = list(csv.DictReader(io.StringIO(joined.to_csv())))
    assert [(row["finite"], row["why"]) for row in rows[:2]] == [("1", ""), ("0", why[1])]
    old = {name: column for name, column in whole.items() if name != "why"}
    assert DecodingCertificates.join([old, whole]).why.tolist() == [""] * 4 + why


def test_a_sample_that_cannot_be_denoised_is_told_apart():
    report = tiny_flow().sample_with_report(2, decoder=Sequential())[1]
    found = DecodingCertificates.of(report, torch.tensor([True, False]))
    assert found.why.tolist() == ["", "denoising"]
    assert found.finite.tolist() == [True, False]
    lost = DecodingCertificates(
        np.array(["a", "b"]), np.full((2, 1), np.nan), np.zeros(2, bool), np.zeros(2, bool)
    )
    assert (
        str(lost) == "0 of 2 samples certified, 2 not finite (black; certificates.csv tells why)"
    )
