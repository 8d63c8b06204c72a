"""Every way to attend gives what attention is defined as, or says why it cannot."""

import sys
from functools import partial

import pytest
import torch
from torch.autograd import gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tarflow import ConfigurationError
from tarflow.nn import kernels
from tarflow.nn.kernels import (
    AutoAttention,
    FlashAttention,
    ProductAttention,
    TorchAttention,
    TorchFlashAttention,
)

# torch compiles a few formulas of forward derivatives by its old compiler.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

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


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("kernel", ON_CPU, ids=repr)
def test_kernels_are_differentiated_any_number_of_times(kernel, length):
    inputs = draw(length, torch.float64, head_dim=4)
    assert gradgradcheck(kernel, inputs)
    some = (inputs[0].detach(), *inputs[1:])
    assert gradgradcheck(kernel, some)
    if length == 5:
        total = partial(third_derivative, inputs)
        torch.testing.assert_close(total(kernel), total(attention_by_definition))


def third_derivative(inputs, kernel):
    """The third derivative in the queries, along one direction."""
    q, k, v = inputs
    derivative = kernel(q, k, v).square().sum()
    for _ in range(3):
        [gradient] = torch.autograd.grad(derivative, [q], create_graph=True)
        derivative = gradient.sum()
    return derivative


@pytest.mark.parametrize("kernel", ON_CPU, ids=repr)
def test_gradients_of_many_outputs_at_once(kernel):
    inputs = draw(5, torch.float64)
    weights = torch.randn(7, 2, 3, 5, 8, dtype=torch.float64)
    found = torch.autograd.grad(kernel(*inputs), inputs, weights, is_grads_batched=True)
    for index, one in enumerate(weights):
        expected = torch.autograd.grad(attention_by_definition(*inputs), inputs, one)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[index], theirs)


@pytest.mark.parametrize("kernel", ON_CPU, ids=repr)
def test_kernels_under_transforms_of_functions(kernel):
    q, k, v = (each.detach() for each in draw(5, torch.float64))

    def total(attend, q):
        return (attend(q[None], k[:1], v[:1]) * v[:1]).square().sum()

    for transform in (grad, hessian, lambda function: jacfwd(jacrev(function))):
        found = vmap(transform(partial(total, kernel)))(q)
        expected = vmap(transform(partial(total, attention_by_definition)))(q)
        torch.testing.assert_close(found, expected)


class Operations(TorchDispatchMode):
    """Keeps the names of what is computed."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_only_what_is_differentiated_twice_goes_around_the_kernel():
    inputs = draw(5)
    with Operations() as operations:
        torch.autograd.grad(TorchAttention()(*inputs).sum(), inputs)
    assert not any("softmax" in name or "bmm" in name for name in operations.names)
    assert any("dot_product" in name and "backward" in name for name in operations.names)
    with Operations() as operations:
        torch.autograd.grad(TorchAttention()(*inputs).sum(), inputs, create_graph=True)
    assert any("softmax" in name for name in operations.names)


def test_gradients_of_what_is_computed_again():
    inputs = draw(5, torch.float64)
    expected = torch.autograd.grad(TorchAttention()(*inputs).square().sum(), inputs)
    attended = checkpoint(TorchAttention(), *inputs, use_reentrant=False)
    found = torch.autograd.grad(attended.square().sum(), inputs)
    torch.testing.assert_close(found, expected)


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
