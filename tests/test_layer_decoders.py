"""Flows with layers of every kind are decoded to the same data in every way."""

import copy

import pytest
import torch

from tarflow import DecodeOptions, GaussianGuidance, Jacobi, LinearGuidance, Sequential

from .models import NETWORKS, tiny_flow

LABEL = torch.tensor([0, 2, -1, 1])


@pytest.fixture(params=NETWORKS)
def flow(request):
    """Two transforms over eight patches, in opposite orders, in float32."""
    sizes = {"num_transforms": 2, "num_layers": 2, "num_classes": 3}
    return tiny_flow((4, 8), 2, 1, **sizes, **NETWORKS[request.param]).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "guidance", [None, LinearGuidance(1.0, temperature=0.5), GaussianGuidance(0.5)]
)
def test_all_decoders_agree_with_float64_and_in_half_precision(flow, guidance):
    z = torch.randn(4, 8, 4)
    exact = copy.deepcopy(flow).double().inverse(z.double(), LABEL, guidance=guidance)
    for decoder in (Sequential(), Jacobi(3, 1e-6), Jacobi(99, 1e-6)):
        options = DecodeOptions(guidance=guidance, decoder=decoder)
        x = flow.inverse(z, LABEL, options=options)
        torch.testing.assert_close(x.double(), exact, rtol=0, atol=2e-5)
    half = flow.decode(z, LABEL, guidance=guidance, dtype=torch.float16, certify=True)
    assert half.report.certified.all()
    torch.testing.assert_close(half.x.double(), exact, rtol=0, atol=0.02)
    if guidance is None:
        again, _ = flow(exact.float(), LABEL)
        torch.testing.assert_close(again, z, rtol=0, atol=2e-5)


def test_gradients_of_the_inverse_are_those_of_the_flow(flow):
    flow, z = flow.double(), torch.randn(4, 8, 4, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(4, 1, 4, 8, dtype=torch.float64)
    x = flow.inverse(z, LABEL)
    [found] = torch.autograd.grad((x * cotangent).sum(), z)
    x = x.detach().requires_grad_()
    _, pulled = torch.autograd.functional.vjp(lambda x: flow(x, LABEL)[0], x, found)
    torch.testing.assert_close(pulled, cotangent, rtol=0, atol=1e-10)
