"""What holds for any shape, dtype, label and order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tarflow import (
    NULL_CLASS,
    Composition,
    Context,
    ExampleSeeds,
    ExpScale,
    Jacobi,
    LinearGuidance,
    Patchify,
    Permute,
    Reverse,
    SoftClipScale,
    SoftplusScale,
    TarFlow,
    UnitScale,
)

from .models import randomized, tiny_autoregressive

few = settings(derandomize=True, deadline=None, max_examples=15, database=None)
DTYPES = st.sampled_from([torch.float32, torch.float64])
SCALES = st.sampled_from([ExpScale(), SoftClipScale(0.5), SoftplusScale(), UnitScale()])
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
SEEDS = st.integers(0, 2**16)


@st.composite
def sizes(draw, largest: int = 3, classes=st.integers(0, 3)) -> dict:
    """Arguments of flows of any size."""
    patch_size = draw(st.integers(1, 2))
    rows, columns = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    return {
        "image_size": (rows * patch_size, columns * patch_size),
        "patch_size": patch_size,
        "num_channels": draw(st.integers(1, 2)),
        "num_transforms": draw(st.integers(1, 3)),
        "head_dim": draw(st.sampled_from([4, 8, 16])),
        "expansion": draw(st.integers(1, 2)),
        "num_classes": draw(classes),
        "scale": draw(SCALES),
    }


def make(size: dict, dtype: torch.dtype = torch.float64) -> TarFlow:
    """A flow of some size, with random weights."""
    return randomized(TarFlow(**size, num_layers=1, model_dim=16)).to(dtype).eval()


def labels(flow: TarFlow, batch: int) -> st.SearchStrategy[torch.Tensor | None]:
    """Labels of a batch, some or all of them null; or none."""
    if not flow.num_classes:
        return st.none()
    known = st.integers(NULL_CLASS, flow.num_classes - 1)
    listed = st.lists(known, min_size=batch, max_size=batch)
    return st.none() | listed.map(lambda values: torch.tensor(values, dtype=torch.long))


def examples(flow: TarFlow, batch: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random data."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *flow.image_shape, generator=generator).to(dtype)


@few
@given(sizes(), st.integers(0, 3), DTYPES, st.data())
def test_data_goes_to_noise_and_back(size, batch, dtype, data):
    flow = make(size, dtype)
    x, y = examples(flow, batch, dtype), data.draw(labels(flow, batch))
    z, log_det = flow(x, y)
    assert z.shape == (batch, *flow.base.shape)
    assert log_det.shape == (batch,)
    assert z.dtype == log_det.dtype == dtype
    with torch.no_grad():
        restored = flow.inverse(z, y)
    torch.testing.assert_close(restored, x, rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(flow.inverse(z, y), x, rtol=0, atol=TOLERANCE[dtype])


@few
@given(sizes(largest=2), st.data())
def test_densities_are_those_of_the_jacobian(size, data):
    flow = make(size)
    x, y = examples(flow, 2, torch.float64), data.draw(labels(flow, 2))
    z, log_det = flow(x, y)
    for row in range(2):
        one = None if y is None else y[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda x, one=one: flow(x[None], one)[0][0].flatten(), x[row]
        )
        matrix = jacobian.reshape(z[0].numel(), -1)
        expected = torch.linalg.slogdet(matrix).logabsdet
        torch.testing.assert_close(log_det[row], expected, rtol=1e-10, atol=1e-10)
    expected = flow.base.log_prob(z) + log_det
    torch.testing.assert_close(flow.log_prob(x, y), expected, rtol=0, atol=1e-12)


@few
@given(sizes(), st.integers(2, 5), st.data())
def test_an_example_does_not_depend_on_its_batch(size, batch, data):
    flow = make(size)
    x, y = examples(flow, batch, torch.float64), data.draw(labels(flow, batch))
    order = torch.tensor(data.draw(st.permutations(range(batch))))
    permuted = flow.log_prob(x[order], None if y is None else y[order])
    torch.testing.assert_close(permuted, flow.log_prob(x, y)[order], rtol=0, atol=1e-10)
    cut = data.draw(st.integers(0, batch))
    parts = [
        flow.log_prob(x[rows], None if y is None else y[rows])
        for rows in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(torch.cat(parts), flow.log_prob(x, y), rtol=0, atol=1e-10)


@few
@given(sizes(), SEEDS, st.integers(0, 2**40), st.data())
def test_sample_n_is_the_same_in_any_batch(size, seed, first, data):
    flow = make(size)
    indices, y = range(first, first + 4), data.draw(labels(flow, 4))
    whole = flow.sample(4, y, source=ExampleSeeds(seed, indices))
    cut = data.draw(st.integers(0, 4))
    parts = [
        flow.sample(
            len(indices[rows]),
            None if y is None else y[rows],
            source=ExampleSeeds(seed, indices[rows]),
        )
        for rows in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-10)


@few
@given(sizes(classes=st.integers(1, 3)), st.integers(1, 9), st.floats(0, 2), st.data())
def test_decoders_agree(size, window, weight, data):
    flow = make(size)
    y = data.draw(labels(flow, 3).filter(lambda y: y is not None))
    z = flow.base.sample(3, torch.Generator().manual_seed(0))
    guidance = LinearGuidance(weight)
    with torch.no_grad():
        expected = flow.decode(z, y, guidance=guidance)
        found = flow.decode(z, y, guidance=guidance, decoder=Jacobi(window, tolerance=1e-12))
    torch.testing.assert_close(found.x, expected.x, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.log_det, expected.log_det, rtol=0, atol=1e-8)
    assert (found.report.residual <= 1e-12).all()


@few
@given(sizes(), st.data())
def test_no_label_and_a_null_label_are_one(size, data):
    flow = make(size)
    if not flow.num_classes:
        return
    x, null = examples(flow, 2, torch.float64), torch.full((2,), NULL_CLASS)
    assert torch.equal(flow.log_prob(x), flow.log_prob(x, null))
    assert torch.equal(flow.log_prob(x), flow.log_prob(x, NULL_CLASS))


@few
@given(st.integers(1, 6).flatmap(lambda n: st.permutations(range(n))), DTYPES, st.integers(0, 3))
def test_any_order_is_undone(order, dtype, batch):
    x = torch.randn(batch, len(order), 2).to(dtype)
    for transform in (Permute(order), Reverse(), Composition([Permute(order), Reverse()])):
        z, log_det = transform(x, Context())
        assert torch.equal(transform.inverse(z, Context()).x, x)
        assert not log_det.any()
        assert torch.equal(z.sort(dim=1).values, x.sort(dim=1).values)


@few
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), DTYPES)
def test_any_patches_are_put_back(rows, columns, patch_size, channels, dtype):
    patchify = Patchify((rows * patch_size, columns * patch_size), patch_size)
    x = torch.randn(2, channels, rows * patch_size, columns * patch_size).to(dtype)
    z, _ = patchify(x, Context())
    assert z.shape == (2, rows * columns, channels * patch_size**2)
    assert torch.equal(patchify.inverse(z, Context()).x, x)


@few
@given(
    st.integers(2, 4).flatmap(lambda n: st.lists(st.permutations(range(n)), max_size=3)), SCALES
)
def test_transforms_in_any_orders_compose(orders, scale):
    length = len(orders[0]) if orders else 3
    transforms = []
    for order in orders:
        transforms += [tiny_autoregressive(scale, length, 2, 1), Permute(order)]
    composition = Composition([*transforms, tiny_autoregressive(scale, length, 2, 1)]).double()
    x = torch.randn(1, length, 2, dtype=torch.float64)
    z, log_det = composition(x, Context())
    restored = composition.inverse(z, Context())
    torch.testing.assert_close(restored.x, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(restored.log_det, log_det, rtol=0, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda x: composition(x, Context())[0], x)
    expected = torch.linalg.slogdet(jacobian.reshape(2 * length, 2 * length)).logabsdet
    torch.testing.assert_close(log_det[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    flow = randomized(TarFlow(4, 2, 1, num_layers=1, model_dim=16, head_dim=8)).double().eval()
    for source in (None, ExampleSeeds(0, range(batch))):
        x, report = flow.sample(batch, source=source, return_report=True)
        assert x.shape == (batch, 1, 4, 4)
        assert report.certified.shape == (batch,)
        assert flow.log_prob(x).shape == (batch,)
        assert flow.score(x).shape == x.shape
