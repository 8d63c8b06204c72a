"""A start token: every position is transformed, the first one too, however it is decoded."""

import pytest
import torch
from torch import Tensor

import tarflow
from tarflow import (
    AutoregressiveTransform,
    Context,
    DecodeOptions,
    ExampleSeeds,
    FixedFirst,
    GaussianGuidance,
    Jacobi,
    LinearGuidance,
    LinearScaleGuidance,
    LinearSchedule,
    NoNoise,
    Sequential,
    SoftplusScale,
    StartToken,
    TarFlow,
    UniformDequantization,
    denoise,
)
from tarflow.sampling.calibration import calibrate
from tarflow.training.acceleration import autoregressive_transforms
from tarflow.training.operations import training_operations

from .equations import predict
from .models import randomized, tiny_autoregressive, tiny_flow
from .test_decoding import gaussian, linear, linear_scale

LENGTH = 6
LABEL = torch.tensor([0, 2, -1])
GUIDANCE = {
    "unguided": (None, None),
    "linear": (LinearGuidance(1.0, temperature=0.5), linear(1.0)),
    "rising": (LinearGuidance(1.5, schedule=LinearSchedule()), linear(1.5, rising=True)),
    "scale": (LinearScaleGuidance(20.0, on_shift=False), linear_scale(20.0, on_shift=False)),
    "gaussian": (GaussianGuidance(1.0), gaussian(1.0)),
}


@pytest.fixture
def transform() -> AutoregressiveTransform:
    """Six positions of two numbers after a start, in float64."""
    made = tiny_autoregressive(SoftplusScale(), LENGTH, num_layers=1, first=StartToken())
    return randomized(made, 0.15).double()


@pytest.fixture
def z() -> Tensor:
    """Noise of three sequences, which wants a gradient."""
    return torch.randn(3, LENGTH, 2, dtype=torch.float64, requires_grad=True)


def maps(transform, before: Tensor, label: Tensor, temperature: float = 1.0):
    """Log-scale and shift after the start and the values `before`."""
    start = before.new_zeros(len(before), 1, 2)  # through proj_in: its bias, to be learned
    raw, shift = predict(transform, torch.cat([start, before], dim=1), label, temperature)
    return transform.scale.log_scale(raw), shift


def looped(transform, z: Tensor, guidance=None, rule=None) -> tuple[Tensor, Tensor]:
    """Data and log-determinant, one position after the other, each predicted from scratch."""
    x, log_det = z[:, :0], z.new_zeros(len(z))
    for i in range(LENGTH):
        log_scale, shift = maps(transform, x, LABEL)
        scale = log_scale.exp()
        if rule is not None:
            null = maps(transform, x, torch.full_like(LABEL, -1), guidance.temperature)
            scale, shift = rule(log_scale, shift, *null, i / (LENGTH - 1))
        x = torch.cat([x, (z[:, i] * scale + shift)[:, None]], dim=1)
        log_det = log_det - scale.abs().log().sum(dim=1)
    return x, log_det


def test_forward_is_the_equation_at_every_position(transform, z):
    x = z.detach()
    found, log_det = transform(x, Context(LABEL))
    total = torch.zeros(3, dtype=torch.float64)
    for i in range(LENGTH):
        log_scale, shift = maps(transform, x[:, :i], LABEL)
        torch.testing.assert_close(found[:, i], (x[:, i] - shift) * torch.exp(-log_scale))
        total = total - log_scale.sum(dim=1)
    torch.testing.assert_close(log_det, total)
    assert not torch.allclose(found[:, 0], x[:, 0])
    other = transform(x, Context(LABEL.flip(0)))[0]
    assert not torch.allclose(other[:, 0], found[:, 0])


@pytest.mark.parametrize("name", GUIDANCE)
@pytest.mark.parametrize("decoder", [Sequential(), Jacobi(4, 1e-12)], ids=repr)
def test_every_decoder_inverts_it_with_every_rule(transform, z, decoder, name):
    guidance, rule = GUIDANCE[name]
    x, log_det = looped(transform, z, guidance, rule)
    found = transform.inverse(z.detach(), Context(LABEL), DecodeOptions(guidance, decoder))
    torch.testing.assert_close(found.x, x.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.log_det, log_det.detach(), rtol=0, atol=1e-10)
    assert (found.report.residual <= 1e-12).all()
    if decoder == Sequential():
        assert found.report.passes == (LENGTH,)


def test_gradients_of_the_inverse_are_those_of_the_loop(transform, z):
    inputs = [z, *transform.parameters()]
    found = transform.inverse(z, Context(LABEL))
    ours, theirs = (
        torch.autograd.grad(x.sin().sum() + log_det.sin().sum(), inputs)
        for x, log_det in ((found.x, found.log_det), looped(transform, z))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "within"), [(None, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.1)]
)
@torch.no_grad()
def test_packed_and_lower_precisions_are_close(dtype, within):
    flow = tiny_flow(num_classes=3, num_transforms=2, num_layers=1, first=StartToken()).eval()
    z = flow.base.sample(3, ExampleSeeds(0, range(3)))
    expected = flow.double().inverse(z.double(), LABEL).float()
    found = flow.float().decode(z, LABEL, dtype=dtype, certify=True)
    assert found.report.residual.max() < within
    torch.testing.assert_close(found.x, expected, rtol=0, atol=within)


def test_with_predictions_held_the_inverse_is_the_data():
    flow = tiny_flow(num_classes=3, num_layers=1, first=StartToken()).double().eval()
    x = flow.sample(3, LABEL)
    z = flow(x, LABEL)[0].detach().requires_grad_()
    again = flow.stop_gradient_inverse(x, LABEL, z)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-12)
    [gradient] = torch.autograd.grad(again.sum(), z)
    assert gradient.ne(0).all()


def vector_flow(num_classes: int = 3) -> TarFlow:
    """A flow of one position: vectors of four numbers."""
    known = {"codec": UniformDequantization(256), "noise": NoNoise(), "first": StartToken()}
    flow = tiny_flow(2, 2, 1, num_classes=num_classes, num_layers=1, num_transforms=1, **known)
    return randomized(flow, 0.2).double().eval()


def test_a_sequence_of_one_position_is_a_conditional_affine_map():
    flow = vector_flow()
    x, transform = torch.randn(3, 1, 2, 2).double(), flow.transform[1]
    z, log_det = flow(x, LABEL)
    start = torch.zeros(3, 1, 4).double()
    log_scale, shift = predict(transform, start, LABEL)
    torch.testing.assert_close(z, ((x.view(3, 4) - shift) * torch.exp(-log_scale))[:, None])
    torch.testing.assert_close(log_det, -log_scale.sum(dim=1))
    for options in ({}, {"decoder": Jacobi(8, 1e-9)}):
        torch.testing.assert_close(flow.inverse(z, LABEL, **options), x)
    for rule in (LinearGuidance(1.0), LinearGuidance(1.0, schedule=LinearSchedule())):
        guided = flow.inverse(z, LABEL, guidance=rule)
        assert guided.isfinite().all()
    assert not torch.allclose(flow.inverse(z, LABEL, guidance=LinearGuidance(1.0)), x)
    samples, log_prob = flow.sample_and_log_prob(3, LABEL)
    torch.testing.assert_close(log_prob, flow.log_prob(samples, LABEL).detach())
    step = flow.score(x, LABEL)
    torch.testing.assert_close(denoise(flow, x, LABEL, noise_std=0.1), x + 0.01 * step)


def test_without_a_start_one_position_is_plain_noise():
    flow = tiny_flow(2, 2, 1, num_classes=3, num_layers=1).double()
    x = torch.randn(3, 1, 2, 2).double()
    z, log_det = flow(x, LABEL)
    assert torch.equal(z.view(3, 4), x.view(3, 4))
    assert not log_det.any()


def test_it_is_saved_and_loaded(tmp_path):
    flow = tiny_flow(num_classes=3, num_layers=1, first=StartToken()).eval()
    flow.save_pretrained(tmp_path)
    again, x = tarflow.load(tmp_path), torch.randn(3, 2, 4, 4)
    assert again.description.first == StartToken()
    assert torch.equal(again.log_prob(x, LABEL), flow.log_prob(x, LABEL))
    assert tiny_flow().description.first == FixedFirst()


def test_calibration_and_operations_count_one_position_more():
    flow = tiny_flow((2, 3), 1, num_transforms=2, num_layers=1, first=StartToken()).eval()
    plan = calibrate(flow, 2, repetitions=1, windows=(2, 99))
    tried = {m.decoder.window for m in plan.measurements if isinstance(m.decoder, Jacobi)}
    assert tried == {2, 6}
    assert {m.passes for m in plan.measurements if m.decoder == Sequential()} == {6}
    plain = tiny_flow((1, 7), 1, num_transforms=2, num_layers=1)
    assert training_operations(flow) == training_operations(plain)


def test_a_fresh_flow_is_the_identity_and_its_start_learns():
    fresh = TarFlow(4, 2, 1, 2, 1, 8, 8, first=StartToken())
    x = torch.randn(2, 1, 4, 4)
    z, log_det = fresh(x)
    assert torch.equal(z.flatten().sort().values, x.flatten().sort().values)
    assert not log_det.any()
    flow = tiny_flow(num_layers=1, first=StartToken())
    flow.log_prob(torch.randn(2, 2, 4, 4)).sum().backward()
    for each in autoregressive_transforms(flow):
        assert each.network.position_embedding.grad[0].any()
