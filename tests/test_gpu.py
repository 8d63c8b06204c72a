"""What only a GPU can show; skipped without one."""

import pytest
import torch

from tarflow import ExampleSeeds, LinearGuidance, TarFlow, denoise
from tarflow.training.optimizers import orthogonalize
from tests.models import randomized

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def flow() -> TarFlow:
    torch.manual_seed(0)
    return randomized(
        TarFlow(8, 2, num_channels=1, num_transforms=2, num_layers=2, model_dim=64, num_classes=3)
    )


def test_density_samples_and_denoising_agree_with_the_cpu(flow):
    label, source = torch.tensor([0, 1, 2, -1]), ExampleSeeds(0, range(4))
    guidance = LinearGuidance(1.0)
    x = flow.sample(4, label, guidance=guidance, source=source)
    clean, log_prob = denoise(flow, x, label, 0.1), flow.log_prob(x, label)
    flow = flow.cuda()
    on_gpu = flow.sample(4, label, guidance=guidance, source=source)
    torch.testing.assert_close(on_gpu.cpu(), x, rtol=0, atol=1e-3)
    torch.testing.assert_close(denoise(flow, x.cuda(), label, 0.1).cpu(), clean, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        flow.log_prob(x.cuda(), label).cpu(), log_prob, rtol=1e-3, atol=1e-2
    )


def test_bfloat16_keeps_the_state_in_float32(flow):
    flow, x = flow.cuda(), torch.randn(4, 1, 8, 8, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        z, log_det = flow(x)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(z, flow(x)[0], rtol=0, atol=0.1)


def test_orthogonalization_in_bfloat16_is_near_that_in_float32():
    torch.manual_seed(0)
    matrices = torch.randn(3, 32, 64)
    close = orthogonalize(matrices.cuda()).float().cpu()
    assert (close - orthogonalize(matrices)).abs().max() < 0.05
