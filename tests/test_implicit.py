"""Gradients of the inverse: against loops that autograd follows, and in linear memory."""

import pytest
import torch
from torch import Tensor

from tarflow import (
    AutoregressiveTransform,
    Context,
    DecodeOptions,
    ExpScale,
    Flow,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    LinearScaleGuidance,
    SoftplusScale,
    SplineScale,
    StandardNormal,
    UnitScale,
)
from tarflow.flows.implicit import ParallelPass
from tarflow.nn.attention import Window

from .equations import null_aware_embedding
from .models import tiny_autoregressive, tough_flow
from .test_decoding import gaussian, linear, linear_scale

LENGTH = 12
LABEL = torch.tensor([0, 2, -1])
NULL = torch.full_like(LABEL, -1)
GUIDANCE = {
    "unguided": (None, None),
    "linear": (LinearGuidance(1.0, temperature=0.5), linear(1.0)),
    "negative scales": (
        LinearScaleGuidance(20.0, on_shift=False),
        linear_scale(20.0, on_shift=False),
    ),
    "gaussian": (GaussianGuidance(1.0), gaussian(1.0)),
}


@pytest.fixture
def z() -> Tensor:
    """Noise of three sequences of 12 positions, which wants a gradient."""
    return torch.randn(3, LENGTH, 2, dtype=torch.float64, requires_grad=True)


def maps(transform: AutoregressiveTransform, x: Tensor, label: Tensor, temperature=1.0):
    """Log-scales and shifts of the positions after those of x."""
    divisor = torch.full((len(x),), temperature, dtype=x.dtype)
    condition = null_aware_embedding(transform, label)
    affine = transform.scale.affine(transform.network(x, condition, Window(temperature=divisor)))
    return affine.log_scale, affine.shift


def looped(transform, z: Tensor, guidance=None, rule=None) -> tuple[Tensor, Tensor]:
    """Data and log-determinant, one position after the other, each predicted from scratch."""
    x, log_det = z[:, :1], z.new_zeros(len(z))
    for i in range(1, z.shape[1]):
        log_scale, shift = (each[:, -1] for each in maps(transform, x, LABEL))
        scale = log_scale.exp()
        if rule is not None:
            null = (each[:, -1] for each in maps(transform, x, NULL, guidance.temperature))
            scale, shift = rule(log_scale, shift, *null, i / (z.shape[1] - 1))
        x = torch.cat([x, (z[:, i] * scale + shift)[:, None]], dim=1)
        log_det = log_det - scale.abs().log().sum(dim=1)
    return x, log_det


def gradients(outputs: tuple[Tensor, Tensor], z: Tensor, transform) -> dict[str, Tensor]:
    """Those of a function of data and log-determinant, to noise, weights and label embedding."""
    inputs = {"z": z, **dict(transform.named_parameters())}
    x, log_det = outputs
    total = (x.sin() * torch.linspace(1, 2, x[0].numel(), dtype=x.dtype).view(x[0].shape)).sum()
    total = total + (log_det**2).sum()
    found = torch.autograd.grad(total, list(inputs.values()), retain_graph=True)
    return dict(zip(inputs, found, strict=True))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The gradients agree, and none is zero."""
    for name, gradient in expected.items():
        size = gradient.abs().max()
        assert size > 1e-4, name
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=float(1e-11 * size))


@pytest.mark.parametrize("name", GUIDANCE)
@pytest.mark.parametrize("scale", [ExpScale(), SoftplusScale(), UnitScale()])
def test_gradients_are_those_of_the_loop(z, scale, name):
    transform = tough_flow(scale, length=LENGTH).double().transform[1]
    guidance, rule = GUIDANCE[name]
    inverse = transform.inverse(z, Context(LABEL), DecodeOptions(guidance))
    expected = looped(transform, z, guidance, rule)
    torch.testing.assert_close(inverse.x, expected[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(inverse.log_det, expected[1], rtol=0, atol=1e-11)
    found = gradients((inverse.x, inverse.log_det), z, transform)
    assert_same(found, gradients(expected, z, transform))


def test_gradients_through_splines_are_those_of_the_loop(z):
    transform = tough_flow(SplineScale(4), std=0.05, length=LENGTH).double().transform[1]
    inverse = transform.inverse(z, Context(LABEL))
    condition = null_aware_embedding(transform, LABEL)
    x, log_det = z[:, :1], z.new_zeros(len(z))
    for i in range(1, LENGTH):
        raw = transform.network(x, condition, Window(temperature=torch.ones(3).double()))
        affine = transform.scale.affine(raw[:, -1:])
        x = torch.cat([x, affine.to_data(z[:, i : i + 1])], dim=1)
        log_det = log_det + affine.log_det(x[:, -1:])
    torch.testing.assert_close(inverse.x, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse.log_det, log_det, rtol=0, atol=1e-10)
    found = gradients((inverse.x, inverse.log_det), z, transform)
    for name, gradient in gradients((x, log_det), z, transform).items():
        within = float(1e-9 * gradient.abs().max())  # the loop finds roots of quadratics
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=within)


def test_gradients_of_the_temperature_are_those_of_the_loop(z):
    transform = tough_flow(length=LENGTH).double().transform[1]
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    context = Context(LABEL, temperature=temperature.expand(3))
    x = transform.inverse(z.detach(), context).x
    expected = z.detach()[:, :1]
    for i in range(1, LENGTH):
        condition = transform.condition(context, expected)
        raw = transform.network(expected, condition, Window(temperature=context.temperature))
        log_scale, shift = raw[:, -1].chunk(2, dim=-1)
        step = z.detach()[:, i] * log_scale.exp() + shift
        expected = torch.cat([expected, step[:, None]], dim=1)
    [found], [wanted] = (torch.autograd.grad(y.square().sum(), temperature) for y in (x, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=0)


def test_gradients_go_through_all_transforms(z):
    flow = tough_flow(length=LENGTH).double()
    inverse = flow.decode(z, LABEL)
    found = flow.transform[0].arrange(inverse.x), inverse.log_det
    y, by_second = looped(flow.transform[3], flow.transform[4].restore(z))
    y, by_first = looped(flow.transform[1], flow.transform[2].restore(y))
    for transform in (flow.transform[1], flow.transform[3]):
        assert_same(
            *(gradients(each, z, transform) for each in (found, (y, by_first + by_second)))
        )


@pytest.mark.parametrize("decoder", [Jacobi(5, 1e-3), Jacobi(99, 1e-2)])
def test_with_a_tolerance_they_are_those_at_the_noise_of_the_sample(z, decoder):
    transform = tough_flow(length=LENGTH).double().transform[1]
    inverse = transform.inverse(z, Context(LABEL), DecodeOptions(decoder=decoder))
    noise = transform(inverse.x.detach(), Context(LABEL))[0].detach().requires_grad_()
    assert 1e-5 < (noise - z).abs().max() <= decoder.tolerance
    exact = transform.inverse(noise, Context(LABEL))
    torch.testing.assert_close(inverse.x, exact.x, rtol=0, atol=1e-11)
    found = gradients((inverse.x, inverse.log_det), z, transform)
    assert_same(found, gradients((exact.x, exact.log_det), noise, transform))


def test_in_a_lower_precision_they_are_close(z):
    flow, z = tough_flow(length=LENGTH), z.detach().float().requires_grad_()
    exact = flow.inverse(z, LABEL)
    lower = flow.inverse(z, LABEL, dtype=torch.float16)
    [expected], [found] = (torch.autograd.grad(x.square().sum(), z) for x in (exact, lower))
    assert 1e-5 < (lower - exact).abs().max() < 1e-2
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.05)


def test_what_wants_no_gradient_gets_no_graph(z):
    flow = tough_flow(length=LENGTH).double()
    assert flow.inverse(z.detach(), LABEL).requires_grad
    flow.requires_grad_(False)
    assert not flow.inverse(z.detach(), LABEL).requires_grad
    assert flow.inverse(z, LABEL).requires_grad
    with torch.no_grad():
        assert not flow.inverse(z, LABEL).requires_grad


def test_a_second_derivative_is_an_error(z):
    transform = tough_flow(length=LENGTH).double().transform[1]
    x = transform.inverse(z, Context(LABEL)).x
    [gradient] = torch.autograd.grad(x.square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# --- What they cost -------------------------------------------------------------------------


def saved_numbers(length: int, guidance=None) -> int:
    """How many numbers of distinct memory a graph through an inverse keeps."""
    transform = tiny_autoregressive(ExpScale(), length)
    z, memory = torch.randn(3, length, 2, requires_grad=True), {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        memory[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # lest its memory is used for another
        return tensor

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        transform.inverse(z, Context(LABEL), DecodeOptions(guidance)).x.sum().backward()
    return sum(memory.values())


@pytest.mark.parametrize("guidance", [None, LinearGuidance(1.0)])
def test_memory_is_linear_in_the_length(guidance):
    small, middle, large = (saved_numbers(length, guidance) for length in (32, 64, 128))
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.02)


def rounds(monkeypatch, transform, z) -> int:
    """How many passes back the solution of a linear system takes."""
    pulled = []
    original = ParallelPass.pull_back

    def counted(self, output, cotangent):
        pulled.append(output)
        return original(self, output, cotangent)

    monkeypatch.setattr(ParallelPass, "pull_back", counted)
    torch.autograd.grad(transform.inverse(z, Context(LABEL)).x.square().sum(), z)
    return len(pulled) - 1  # one is for the log-determinant


def test_it_takes_fewer_passes_than_positions(monkeypatch):
    transform = tough_flow(length=64).double().transform[1]
    z = torch.randn(3, 64, 2, dtype=torch.float64, requires_grad=True)
    assert 3 < rounds(monkeypatch, transform, z) < 48


def test_it_takes_no_more_passes_than_positions(monkeypatch, z):
    transform = tough_flow(std=0.3, length=LENGTH).double().transform[1]
    assert transform.inverse(z, Context(LABEL)).x.isfinite().all()
    assert rounds(monkeypatch, transform, z) == LENGTH - 1


def test_it_does_not_go_on_where_nothing_is_finite(monkeypatch, z):
    transform = tough_flow(std=0.5, length=LENGTH).double().transform[1]
    assert transform.inverse(z, Context(LABEL)).x.isnan().all()
    assert rounds(monkeypatch, transform, z) == 1


# --- The stop-gradient inverse --------------------------------------------------------------


@pytest.mark.parametrize("with_noise", [False, True])
def test_the_stop_gradient_inverse_is_that_of_the_equations(with_noise):
    flow = tough_flow(length=LENGTH).double()
    x = torch.randn(3, 2, 1, LENGTH, dtype=torch.float64)
    z = flow(x, LABEL)[0].detach().requires_grad_()
    found = flow.stop_gradient_inverse(x, LABEL, z if with_noise else None)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)
    state, states, y = x, [], z
    for transform in flow.transform:
        states.append(state)
        state = transform(state, Context(LABEL))[0].detach()
    for transform, held in zip(reversed(list(flow.transform)), states[::-1], strict=True):
        if not transform.num_decoded:
            y = transform.restore(y)
            continue
        positions = [y[:, 0]]
        for i in range(1, LENGTH):
            log_scale, shift = (each[:, -1] for each in maps(transform, held[:, :i], LABEL))
            positions.append(y[:, i] * log_scale.exp() + shift)
        y = torch.stack(positions, dim=1)
    parameters = [*flow.parameters(), *([z] if with_noise else [])]
    for one, other in zip(
        torch.autograd.grad(found.sin().sum(), parameters),
        torch.autograd.grad(y.sin().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
        assert one.any()


def test_the_stop_gradient_inverse_leaves_the_data_out():
    flow = Flow([tiny_autoregressive(ExpScale())], StandardNormal(5, 2)).double()
    x = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    found = flow.stop_gradient_inverse(x, LABEL)
    assert torch.autograd.grad(found.sum(), x, allow_unused=True) == (None,)
