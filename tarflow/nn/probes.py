"""Which attention kernels work on a device: each is run, forward and backward, and compared."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.nn.kernels import FlashAttention, TorchAttention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal attention of queries, keys and values, all `batch heads length head_dim`."""

SHAPE = (2, 2, 128, 64)
"""Batch, heads, length and head_dim of what is attended to."""

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 2e-2}
"""How far a kernel may be off, by the precision of its inputs."""

KERNELS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
"""torch's own kernels, by their name in `torch.nn.attention.SDPBackend`."""


@dataclass(frozen=True)
class Probe:
    """Whether a kernel works.

    Attributes:
        name: What it is called.
        failure: Why it does not; empty if it works.
    """

    name: str
    failure: str = ""


def probe_default(device: torch.device) -> Probe:
    """Probe the kernel that torch picks by itself."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return _probe("torch's choice", lambda: _compare(TorchAttention(), device, dtype))


def probe_kernels(device: torch.device) -> list[Probe]:
    """Probe torch's kernels, the package flash-attn, and the kernels torch can switch to."""
    kernels = [_probe_kernel(name, device) for name in KERNELS]
    return [*kernels, probe_package(device), *_probe_switch(device)]


def probe_package(device: torch.device) -> Probe:
    """Probe the package flash-attn by its function: a package can be there without it."""
    name = "package flash-attn"
    if importlib.util.find_spec("flash_attn") is None:
        return Probe(name, "not installed")

    def run() -> None:
        kernel = FlashAttention()
        refused = kernel.refusal(torch.empty(0, dtype=torch.float16, device=device))
        if refused:
            raise RuntimeError(refused)
        _compare(kernel, device, torch.float16)

    return _probe(name, run)


def _probe_kernel(kernel: str, device: torch.device) -> Probe:
    """Probe one of torch's own kernels; its warnings tell why it is not available."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # imports dynamo: seconds

    def run() -> None:
        with sdpa_kernel(getattr(SDPBackend, kernel)):
            _compare(TorchAttention(), device, torch.bfloat16)

    return _probe(f"torch {kernel}", run)


def _probe_switch(device: torch.device) -> list[Probe]:
    """Probe the kernels of other packages that torch (2.13 and later) can put in its place."""
    from torch.nn import attention

    if not hasattr(attention, "activate_flash_attention_impl"):
        return [Probe("torch's switch to FA3 and FA4", "needs torch 2.13")]

    def run(name: str) -> None:
        _need_cuda(device)
        attention.activate_flash_attention_impl(name)
        try:
            with attention.sdpa_kernel(attention.SDPBackend.FLASH_ATTENTION):
                _compare(TorchAttention(), device, torch.bfloat16)
        finally:
            attention.restore_flash_attention_impl()

    names = attention.list_flash_attention_impls()
    return [_probe(f"torch switched to {name}", lambda name=name: run(name)) for name in names]


def _probe(name: str, run: Callable[[], None]) -> Probe:
    """Run a kernel, and keep what it says where it fails."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            run()
        # Whatever a kernel raises, it does not work: its libraries raise what they like.
        except Exception as error:
            hints = [str(warning.message) for warning in told]
            return Probe(name, first_lines(error, *hints))
    return Probe(name)


def first_lines(error: Exception, *hints: str) -> str:
    """What an error says, without its traceback; and a few hints."""
    text = str(error).strip() or type(error).__name__
    lines = [text.splitlines()[0], *(hint.splitlines()[0] for hint in hints[:3])]
    return "; ".join(line.split(" (Triggered internally")[0] for line in lines)


def _need_cuda(device: torch.device) -> None:
    """Refuse other devices, on which some packages crash instead of raising."""
    if device.type != "cuda":
        raise RuntimeError("needs a CUDA device")


def _plain(
    q: Float[Tensor, "batch heads length head_dim"],
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length head_dim"],
) -> Float[Tensor, "batch heads length head_dim"]:
    """Causal attention from its equation."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(diagonal=1)
    return logits.masked_fill(later, -torch.inf).softmax(dim=-1) @ v


def _compare(attend: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """Compare values and gradients with those of the equation in float64 on the CPU.

    Raises:
        RuntimeError: They are off.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(4)]
    found = _differentiate(attend, [x.to(device, copy=True) for x in inputs])
    right = _differentiate(_plain, [x.double() for x in inputs])
    for name, a, b in zip(("values", "gradients"), found, right, strict=True):
        error = float((a.double().cpu() - b).abs().max() / b.abs().max())
        if not error <= TOLERANCES[dtype]:
            raise RuntimeError(f"{name} are off by {error:.1e} of the largest, in {dtype}")


def _differentiate(attend: Attention, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What attention returns, and its gradient in queries, keys and values."""
    *leaves, cotangent = inputs
    leaves = [x.requires_grad_() for x in leaves]
    output = attend(*leaves)
    gradients = torch.autograd.grad(output, leaves, cotangent)
    return output.detach(), torch.stack(gradients)
