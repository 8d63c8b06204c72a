"""Every way to attend gives what attention is defined as, or says why it cannot."""

import sys

import pytest
import torch

from tarflow import ConfigurationError
from tarflow.nn import kernels
from tarflow.nn.kernels import (
    AutoAttention,
    FlashAttention,
    ProductAttention,
    TorchAttention,
    TorchFlashAttention,
)

ON_CPU = [TorchAttention(), ProductAttention(), AutoAttention()]
ON_GPU = [*ON_CPU, FlashAttention(), TorchFlashAttention("FA3"), TorchFlashAttention("FA4")]


def attention_by_definition(q, k, v):
    """Written from the definition, in float64."""
    q, k, v = (each.double() for each in (q, k, v))
    logits = q @ k.mT / q.shape[-1] ** 0.5
    seen = torch.ones(logits.shape[-2:], device=q.device).tril().bool()
    return logits.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ v


def draw(length, dtype=torch.float32, device="cpu", head_dim=8):
    return [
        torch.randn(2, 3, length, head_dim, device=device, dtype=dtype, requires_grad=True)
        for _ in range(3)
    ]


def assert_same_attention(kernel, inputs, tolerance):
    found, expected = kernel(*inputs), attention_by_definition(*inputs)
    assert found.dtype == inputs[0].dtype
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((found.double() * weights).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    for one, other in zip((found, *gradients), (expected, *expected_gradients), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("length", [1, 2, 17, 130])
@pytest.mark.parametrize("kernel", ON_CPU, ids=repr)
def test_kernels_agree_with_the_definition(kernel, length):
    assert_same_attention(kernel, draw(length), 1e-5)


@pytest.mark.parametrize("kernel", [*ON_CPU, ProductAttention(torch.float32)], ids=repr)
def test_kernels_agree_in_bfloat16(kernel):
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_attention(kernel, draw(17, torch.bfloat16), 0.1)


@pytest.mark.parametrize("kernel", [TorchAttention(), ProductAttention()], ids=repr)
def test_dropout_drops_weights_and_keeps_the_mean(kernel):
    q, k, v = torch.randn(3, 200, 2, 16, 8)
    v = torch.ones_like(v)
    found = kernel(q, k, v, 0.25)
    assert not torch.equal(found, v)
    assert found.mean() == pytest.approx(1, abs=0.02)


def test_auto_takes_products_for_short_sequences_on_a_cpu_and_logs_it(caplog):
    with caplog.at_level("INFO", "tarflow"):
        assert AutoAttention().serving(torch.empty(1, 1, 64, 8)) == ProductAttention()
    assert "attention of torch.float32 on cpu: ProductAttention" in caplog.text
    assert AutoAttention().serving(torch.empty(1, 1, 1024, 8)) == TorchAttention()


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_auto_multiplies_in_the_faster_precision_of_the_cpu(faster, monkeypatch):
    kernels._widening_pays.cache_clear()
    monkeypatch.setattr(
        "tarflow.machine.device.matrix_rate", lambda device, dtype, largest: float(dtype == faster)
    )
    like = torch.empty(1, 1, 64, 8, dtype=torch.bfloat16)
    expected = ProductAttention(torch.float32 if faster == torch.float32 else None)
    assert AutoAttention().serving(like) == expected
    kernels._widening_pays.cache_clear()


def test_what_cannot_be_served_says_why(tmp_path, monkeypatch):
    like = torch.empty(1, 1, 4, 8)
    with pytest.raises(ConfigurationError, match="computes on CUDA devices, not on cpu"):
        TorchFlashAttention("FA3").serving(like)
    with pytest.raises(ConfigurationError, match="version 'FA5': torch knows FA3 and FA4"):
        TorchFlashAttention("FA5")
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()  # a stub: importable, and empty
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    with pytest.raises(
        ConfigurationError, match=r"flash_attn cannot be used: .*has no attribute .flash_attn_func"
    ):
        FlashAttention().serving(like)
    sys.modules.pop("flash_attn")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", ON_GPU, ids=repr)
def test_kernels_agree_on_a_gpu(kernel, dtype):
    inputs = draw(130, dtype, "cuda", head_dim=64)
    reason = kernel.refusal(inputs[0])
    if reason:
        pytest.skip(reason)
    assert_same_attention(kernel, inputs, 0.05)
    rows = torch.randn(3, 9, 2, 64, device="cuda", dtype=dtype)
    found, expected = (each.packed(*rows, [3, 1, 5]) for each in (kernel, TorchAttention()))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
