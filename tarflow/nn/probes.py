"""Which attention kernels work on a device: each is run, forward and backward, and compared."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tarflow.nn.kernels import FlashAttention, ProductAttention, TorchAttention

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
    """Whether a kernel works: if so, the failure is empty."""

    name: str
    failure: str = ""


def probe_default(device: torch.device) -> Probe:
    """Probe the kernel that torch picks by itself."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return _probe("torch's choice", _compare, TorchAttention(), device, dtype)


def probe_kernels(device: torch.device) -> list[Probe]:
    """Probe torch's kernels, the package flash-attn, and the kernels torch can switch to."""
    from torch.nn import attention  # imports dynamo: seconds

    def run(kernel: str) -> None:
        with attention.sdpa_kernel(getattr(attention.SDPBackend, kernel)):
            _compare(TorchAttention(), device, torch.bfloat16)

    def run_switched(package: str) -> None:
        if device.type != "cuda":  # where some packages crash instead of raising
            raise RuntimeError("needs a CUDA device")
        attention.activate_flash_attention_impl(package)
        try:
            run("FLASH_ATTENTION")
        finally:
            attention.restore_flash_attention_impl()

    probes = [_probe(f"torch {name}", run, name) for name in KERNELS]
    probes.append(probe_package(device))
    if not hasattr(attention, "activate_flash_attention_impl"):
        return [*probes, Probe("torch's switch to FA3 and FA4", "needs torch 2.13")]
    packages = attention.list_flash_attention_impls()
    return [*probes, *(_probe(f"torch switched to {p}", run_switched, p) for p in packages)]


def probe_package(device: torch.device) -> Probe:
    """Probe the package flash-attn by its function: a package can be there without it."""
    name, kernel = "package flash-attn", FlashAttention()
    if importlib.util.find_spec("flash_attn") is None:
        return Probe(name, "not installed")

    def run() -> None:
        refused = kernel.refusal(torch.empty(0, dtype=torch.float16, device=device))
        if refused:
            raise RuntimeError(refused)
        _compare(kernel, device, torch.float16)

    return _probe(name, run)


def _probe(name: str, run: Callable[..., None], *arguments: Any) -> Probe:
    """Run a kernel, and keep what it says, warnings too, where it fails."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            run(*arguments)
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


def _compare(attend: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse values and gradients that are off those of the equation in float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(4)]
    found = _differentiate(attend, [x.to(device, copy=True) for x in inputs])
    right = _differentiate(ProductAttention(), [x.double() for x in inputs])
    for name, a, b in zip(("values", "gradients"), found, right, strict=True):
        error = float((a.double().cpu() - b).abs().max() / b.abs().max())
        if not error <= TOLERANCES[dtype]:
            raise RuntimeError(f"{name} are off by {error:.1e} of the largest, in {dtype}")


def _differentiate(attend: Attention, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What attention returns, and its gradient in queries, keys and values."""
    *inputs, cotangent = inputs
    leaves = [x.requires_grad_() for x in inputs]
    output = attend(*leaves)
    gradients = torch.autograd.grad(output, leaves, cotangent)
    return output.detach(), torch.stack(gradients)
