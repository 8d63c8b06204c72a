"""Quantizers against loops written from the equations, in float64."""

import sys
from itertools import product

import pytest
import torch
from torch import Tensor

from tarflow import ConfigurationError
from tarflow.tokenizers import (
    Codebook,
    FiniteScalar,
    LinearCodebook,
    RotationTrick,
    StraightThrough,
    VectorQuantized,
)
from tarflow.tokenizers.codebook import AT_A_TIME, nearest
from tarflow.tokenizers.quantizers import quantizers

from ..models import randomized
from .tiny_autoencoders import BOTTLENECKS, CODEBOOKS, QUANTIZERS


@pytest.fixture(params=CODEBOOKS)
def described(request):
    return CODEBOOKS[request.param]


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def cotangent() -> Tensor:
    """Gradient of a loss to latents."""
    return torch.randn(2, 3, 3, 4, dtype=torch.float64)


def squeeze_of(described):
    """A quantizer in float64, with codes about as large as the vectors."""
    return randomized(described.module().double(), std=0.6)


def code_gradient(described, e: Tensor, q: Tensor, gradient: Tensor) -> Tensor:
    """dL/de of one vector from dL/dq of its code."""
    if isinstance(described.gradient, StraightThrough):
        return gradient
    e_hat, q_hat = e / e.norm(), q / q.norm()
    r = (e_hat + q_hat) / (e_hat + q_hat).norm()
    rotation = torch.eye(len(e)) - 2 * torch.outer(r, r) + 2 * torch.outer(q_hat, e_hat)
    ratio = q.norm() / e.norm()
    torch.testing.assert_close(ratio * rotation @ e, q)
    return ratio * rotation.T @ gradient


def test_codebooks_are_those_of_the_equations(described, hidden, cotangent):
    squeeze = squeeze_of(described)
    found = squeeze(hidden)
    ((found.latents * cotangent).sum() + found.loss @ torch.tensor([1.0, 3.0]).double()).backward()

    codes, beta = squeeze.codes.detach(), described.commitment
    loss, to_hidden, to_codes = torch.zeros(2), torch.zeros_like(hidden), torch.zeros_like(codes)
    loss = loss.double()
    for example, i, j in product(range(2), range(3), range(4)):
        e = hidden.detach()[example, :, i, j]
        index = min(range(16), key=lambda k: float((e - codes[k]).norm()))
        q, weight = codes[index], (1.0, 3.0)[example] / 36
        assert found.codes is not None
        assert found.codes[example, i, j] == index
        assert torch.equal(found.latents[example, :, i, j], q)
        loss[example] += ((e - q).norm() ** 2 + beta * (e - q).norm() ** 2) / 36
        passed = code_gradient(described, e, q, cotangent[example, :, i, j])
        to_hidden[example, :, i, j] = passed + 2 * beta * weight * (e - q)
        to_codes[index] += 2 * weight * (q - e)
    torch.testing.assert_close(found.loss, loss)
    torch.testing.assert_close(hidden.grad, to_hidden)
    torch.testing.assert_close(found.logged["quantization_error"], loss / (1 + beta))
    if isinstance(described, VectorQuantized):
        torch.testing.assert_close(squeeze.weight.grad, to_codes)
    else:
        mapped = squeeze.quantizer
        expected = to_codes.T @ mapped.frozen_codebook
        torch.testing.assert_close(mapped.code_transform.weight.grad, expected)


def moved(described, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Which codes a step of gradient descent moves, and which were used."""
    squeeze = squeeze_of(described)
    before = squeeze.codes.detach().clone()
    found = squeeze(hidden)
    found.loss.sum().backward()
    with torch.no_grad():
        for parameter in squeeze.parameters():
            parameter -= 0.1 * parameter.grad
    return (squeeze.codes != before).any(dim=1), torch.bincount(
        found.codes.flatten(), minlength=16
    )


def test_the_linear_map_moves_every_code_where_a_plain_codebook_moves_those_in_use(hidden):
    one_code = torch.full_like(hidden, 0.3)
    assert moved(LinearCodebook(3, 16), one_code)[0].all()
    changed, used = moved(VectorQuantized(3, 16), hidden)
    assert torch.equal(changed, used > 0)
    assert 0 < changed.sum() < 16


def test_the_random_part_of_a_linear_codebook_is_kept_and_does_not_learn():
    squeeze = LinearCodebook(3, 16).module()
    names = [name for name, _ in squeeze.named_parameters()]
    assert names == ["quantizer.code_transform.weight"]
    assert "quantizer.frozen_codebook" in squeeze.state_dict()


@pytest.mark.parametrize("rotation", [False, True])
def test_a_linear_codebook_agrees_with_the_package_that_it_comes_from(rotation, hidden, cotangent):
    gradient = RotationTrick() if rotation else StraightThrough()
    ours = squeeze_of(LinearCodebook(3, 16, gradient))
    theirs = quantizers().SimVQ(3, 16, channel_first=True, rotation_trick=rotation).double()
    theirs.load_state_dict(ours.quantizer.state_dict())

    found = ours(hidden)
    ((found.latents * cotangent).sum() + found.loss.mean()).backward()
    expected, hidden.grad = hidden.grad, None
    latents, codes, loss = theirs(hidden)
    ((latents * cotangent).sum() + loss).backward()
    torch.testing.assert_close(found.latents, latents)
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(hidden.grad, expected)
    weights = (each.code_transform.weight.grad for each in (ours.quantizer, theirs))
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("e", [[0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [1e-30, 0.0, 0.0]])
def test_the_rotation_trick_has_finite_gradients_where_there_is_no_rotation(e):
    vectors = torch.tensor([e], requires_grad=True)
    found = RotationTrick()(vectors, torch.tensor([[1.0, 2.0, 3.0]]))
    assert found.tolist() == [[1.0, 2.0, 3.0]]
    found.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def bounded(value: Tensor, levels: int) -> Tensor:
    """A number before it is rounded: `levels` integers are within its range."""
    half = torch.tensor((levels - 1) * 1.001 / 2)
    offset = 0.5 if levels % 2 == 0 else 0.0
    return torch.tanh(value + torch.atanh(offset / half)) * half - offset


def test_finite_scalars_are_those_of_the_equations(cotangent):
    levels = (8, 5, 3)
    hidden = (2 * torch.randn(2, 3, 3, 4, dtype=torch.float64)).requires_grad_()
    found = FiniteScalar(levels).module()(hidden)
    (found.latents * cotangent).sum().backward()
    for example, i, j in product(range(2), range(3), range(4)):
        index = 0
        for channel in reversed(range(3)):
            at, half = (example, channel, i, j), levels[channel] // 2
            value = hidden.detach()[at].clone().requires_grad_()
            before = bounded(value, levels[channel])
            before.backward()
            rounded = round(before.item())
            assert found.latents[at].item() == rounded / half
            assert hidden.grad is not None
            assert hidden.grad[at].item() == pytest.approx(  # the package's bounds are float32
                (cotangent[at] * value.grad / half).item(), rel=1e-5
            )
            assert 0 <= rounded + half < levels[channel]
            index = index * levels[channel] + rounded + half
        assert found.codes is not None
        assert found.codes[example, i, j] == index
    assert found.loss.tolist() == [0, 0]


def test_every_level_and_every_code_of_finite_scalars_is_within_reach():
    line = torch.linspace(-4, 4, 201)
    for levels in (3, 4, 5, 8):
        reached = FiniteScalar((levels,)).module().latents(line.view(1, 1, 1, -1)).unique()
        expected = [(k - levels // 2) / (levels // 2) for k in range(levels)]
        assert reached.tolist() == pytest.approx(expected)
    described = FiniteScalar((4, 3, 5))
    grid = torch.stack(torch.meshgrid(3 * [line[::10]], indexing="ij")).flatten(1)
    found = described.module()(grid[None, :, :, None])
    assert found.codes.unique().tolist() == list(range(60))
    assert described.num_codes == 60


@pytest.mark.parametrize("name", QUANTIZERS)
def test_latents_snap_to_the_nearest_code(name):
    described = QUANTIZERS[name]
    squeeze = described.module()
    if isinstance(squeeze, Codebook):
        randomized(squeeze, std=0.6)
        codes = squeeze.codes.detach()
    else:
        halves = [levels // 2 for levels in described.levels]
        lines = [(torch.arange(n) - h) / h for n, h in zip(described.levels, halves, strict=True)]
        codes = torch.cartesian_prod(*lines)
    assert len(codes) == described.num_codes
    noisy = 2 * torch.randn(3, 3, 4, 5)
    found = squeeze.snapped(noisy)
    for example, i, j in product(range(3), range(4), range(5)):
        distance = (codes - noisy[example, :, i, j]).norm(dim=1)
        assert torch.equal(found[example, :, i, j], codes[distance.argmin()])
    assert torch.equal(squeeze.snapped(found), found)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_modes_and_repetition_change_nothing(name):
    squeeze = randomized(BOTTLENECKS[name].module(), std=0.6)
    hidden = torch.randn(2, BOTTLENECKS[name].num_inputs, 3, 4)
    runs = []
    for mode in (True, False, True):
        given = hidden.clone().requires_grad_()
        squeeze.train(mode).zero_grad()
        found = squeeze(given, torch.Generator().manual_seed(3))
        (found.latents.square().sum() + found.loss.sum()).backward()
        learned = [parameter.grad for parameter in squeeze.parameters()]
        runs.append([found.latents, found.loss, given.grad, squeeze.latents(hidden), *learned])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
    assert all(value is not None for value in runs[0])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_training_sees_the_very_latents_that_are_encoded(name):
    squeeze, hidden = randomized(QUANTIZERS[name].module(), std=0.6), torch.randn(2, 3, 4, 4)
    assert torch.equal(squeeze(hidden).latents, squeeze.latents(hidden))


def test_codes_do_not_depend_on_the_batch():
    vectors, codes = torch.randn(2 * AT_A_TIME // 1024 + 7, 4), torch.randn(1024, 4)
    found = nearest(vectors, codes)
    chosen = torch.arange(0, len(vectors), 487)
    for row in chosen.tolist():
        assert nearest(vectors[row : row + 1], codes) == found[row]
    distances = (vectors[chosen, None].double() - codes.double()).square().sum(dim=2)
    best = distances.min(dim=1).values
    assert (distances.gather(1, found[chosen, None])[:, 0] <= best * (1 + 1e-5)).all()


def test_a_missing_package_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    words = r"vector-quantize-pytorch, which is not installed: pip install 'tarflow\[latents\]'"
    hidden = torch.randn(1, 4, 2, 2)
    VectorQuantized().module()(hidden)
    with pytest.raises(ConfigurationError, match=words):
        LinearCodebook().module()
    with pytest.raises(ConfigurationError, match=words):
        FiniteScalar().module()
    with pytest.raises(ConfigurationError, match=words):
        VectorQuantized(gradient=RotationTrick()).module()(hidden)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VectorQuantized(0), "num_channels 0 must be at least 1"),
        (lambda: LinearCodebook(num_codes=1), "num_codes 1 must be at least 2"),
        (lambda: VectorQuantized(commitment=-1.0), "commitment -1.0 must be finite"),
        (lambda: LinearCodebook(commitment=float("inf")), "commitment inf must be finite"),
        (lambda: FiniteScalar((8, 2)), "levels 2 must be at least 3"),
        (lambda: FiniteScalar(()), r"levels \(\) must be a number for each channel"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ConfigurationError, match=words):
        make()
