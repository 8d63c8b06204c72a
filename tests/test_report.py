"""What sampling reports of itself."""

import pytest
import torch

from tarflow import (
    DecodeOptions,
    ExampleSeeds,
    Jacobi,
    LinearGuidance,
    PerTransform,
    SamplingReport,
    Sequential,
)

from .models import tiny_flow

DECODERS = pytest.mark.parametrize("decoder", [Sequential(), Jacobi(3, 1e-4)])


@pytest.fixture
def flow():
    """Three transforms of four positions, in float32."""
    return tiny_flow(num_classes=3).eval()


def batch(flow, first: int, last: int, **options):
    """Samples of some examples, and their report."""
    source = ExampleSeeds(0, range(first, last))
    return flow.sample(last - first, 1, source=source, return_report=True, **options)


@DECODERS
def test_there_is_a_report_for_each_transform_and_sample(flow, decoder):
    x, report = batch(flow, 0, 5, decoder=decoder)
    assert torch.equal(x, flow.sample(5, 1, source=ExampleSeeds(0, range(5)), decoder=decoder))
    assert len(report.transforms) == 3
    assert report.residual.shape == (3, 5)
    assert report.certified.tolist() == [True] * 5
    assert not report.redone.any()
    for transform in report.transforms:
        assert transform.decoder == (decoder,)
        assert transform.certified.shape == (5,)
        assert transform.residual.shape == transform.redone.shape == (1, 5)
        assert transform.iterations.shape == transform.non_finite.shape == (1, 5)
        assert (transform.iterations <= transform.passes[0]).all()
        assert transform.exact == (isinstance(decoder, Sequential),)
        assert transform.passes == (3,) or isinstance(decoder, Jacobi)


def test_transforms_are_in_the_order_of_decoding(flow):
    decoders = (Jacobi(1), Jacobi(2), Jacobi(3))
    _, report = batch(flow, 0, 2, decoder=PerTransform(decoders))
    assert report.decoder == decoders
    for index in (0, 2, -1):
        assert report[index].decoder == (decoders[index],)
        assert torch.equal(report[index].residual[0], report.residual[index])
    assert len(report.transforms) == 3
    with pytest.raises(IndexError):
        report[3]


def test_the_old_keyword_gives_what_sample_with_report_does(flow):
    x, report = batch(flow, 0, 3, dtype=torch.bfloat16)
    source = ExampleSeeds(0, range(3))
    options = DecodeOptions(dtype=torch.bfloat16)
    again, other = flow.sample_with_report(3, 1, source=source, options=options)
    assert torch.equal(x, again)
    assert torch.equal(report.residual, other.residual)
    assert report.certified.all()


@DECODERS
def test_two_batches_have_one_report(flow, decoder):
    (_, first), (_, second) = (batch(flow, *ends, decoder=decoder) for ends in ((0, 2), (2, 5)))
    joined = SamplingReport.cat([first, second])
    assert torch.equal(joined.residual, torch.cat([first.residual, second.residual], dim=1))
    assert joined.decoder == (decoder,) * 3
    assert joined.passes == tuple(map(sum, zip(first.passes, second.passes, strict=True)))
    assert joined.exact == first.exact
    for name in ("residual", "iterations", "non_finite", "redone"):
        expected = torch.cat([getattr(part, name) for part in (first, second)], dim=1)
        assert torch.equal(getattr(joined, name), expected)


def one_row(residual, redone, exact=False, decoder=Jacobi(4, 0.1)) -> SamplingReport:
    """A report of one transform and two examples."""
    count = torch.tensor([[3, 2]])
    residual, redone = torch.tensor([residual]), torch.tensor([redone])
    return SamplingReport((decoder,), residual, count, (3,), count - 2, redone, (exact,))


def test_a_sample_is_certified_if_every_transform_certifies_it():
    good, bad = ([0.05, 0.1], [False, False]), ([0.05, 0.25], [True, False])
    assert one_row(*good).certified.tolist() == [True, True]
    for residual in ([0.25, 0.05], [torch.nan, 0.05]):
        mixed = SamplingReport.stack([one_row(*good), one_row(residual, [True, True])])
        assert mixed.certified.tolist() == [False, True]
    both = SamplingReport.stack([one_row(*good), one_row(*bad)])
    assert both.certified.tolist() == [True, False]
    assert both.redone.tolist() == [[False, False], [True, False]]
    unknown = one_row([0.5, torch.nan], [False, False], decoder=Sequential())
    assert unknown.certified.tolist() == [True, False]


def test_batches_of_which_one_is_not_exact_are_not():
    parts = [one_row([0.0, 0.0], [False, False], exact) for exact in (True, False)]
    assert SamplingReport.cat(parts).exact == (False,)
    assert SamplingReport.cat(parts[:1]).exact == (True,)


def test_the_report_as_text():
    first = one_row([0.05, 0.25], [True, False])
    unknown = one_row([0.5, torch.nan], [False, False], decoder=Sequential())
    assert str(SamplingReport.stack([first, unknown])).splitlines() == [
        "transform 0 from the noise: Jacobi(window=4, tolerance=0.1), 3 passes, largest residual"
        " 2.5e-01, 1 of 2 certified, 1 redone, 1 non-finite drafts",
        "transform 1 from the noise: Sequential(), 3 passes, largest residual nan, 1 of 2"
        " certified, 0 redone, 1 non-finite drafts",
    ]


@DECODERS
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("guidance", [None, LinearGuidance(1.0)])
def test_no_samples_have_a_report_too(flow, decoder, dtype, guidance):
    options = {"decoder": decoder, "dtype": dtype, "guidance": guidance}
    x, report = flow.sample(0, 1, return_report=True, **options)
    assert x.shape == (0, 2, 4, 4)
    assert report.residual.shape == (3, 0)
    assert report.certified.shape == (0,)
    assert str(report).count("largest residual 0.0e+00, 0 of 0 certified") == 3
    joined = SamplingReport.cat([report, batch(flow, 0, 2, **options)[1]])
    assert joined.residual.shape == (3, 2)
    x, log_prob = flow.sample_and_log_prob(0, 1, **options)
    assert x.shape == (0, 2, 4, 4)
    assert log_prob.shape == (0,)
