"""Ways to compute causal attention over whole sequences: a class for each library."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tarflow.errors import ConfigurationError
from tarflow.registry import Part

log = logging.getLogger(__name__)

HALVES = (torch.float16, torch.bfloat16)

Heads = Float[Tensor, "batch heads length head_dim"]
"""Queries, keys, values, or what they attend to."""

SHORT = {torch.bfloat16: 256}
"""Number of positions up to which two matrix products beat torch's kernel on CPUs, where it is not
128. Forward and backward take, in float32 and 32 examples of 64 positions, 0.78 of its time with
AVX2 and 1.28 with AVX-512, and 2.2 and 3.1 at 1,024; in bfloat16 with AMX 0.25 at 64, 0.76 at 256
and 2.1 at 1,024."""

LANES = 32
"""16-bit numbers in a vector register: torch's softmax over rows of 63 takes four times as long as
over rows of 64, for it computes the rest of a row one by one, and products are slower too. With
padding a step in bfloat16 (width 256, 4 x 4 layers, batch 32) takes 0.94 of the time."""


class AttentionKernel(Part, ABC):
    """Causal attention: each position attends to itself and to what came before.

    A kernel is a frozen dataclass without state: it may be shared, compiled and copied.
    """

    @abstractmethod
    def __call__(self, q: Heads, k: Heads, v: Heads, dropout: float = 0.0) -> Heads:
        """Attend over whole sequences of one length."""

    def refusal(self, like: Tensor) -> str | None:
        """Why it cannot compute on the device and dtype of a tensor; None if it can."""
        return None

    def serving(self, like: Heads) -> "AttentionKernel":
        """The kernel that computes for queries of this device, precision and shape.

        Raises:
            ConfigurationError: It cannot; says why.
        """
        refused = self.refusal(like)
        if refused:
            raise ConfigurationError(
                f"{self} cannot serve: {refused}. Choose attention=auto, or mend that"
            )
        return self


@dataclass(frozen=True)
class FullAttention:
    """Attention of every position to all of them, by torch's fused kernels.

    It is not causal, and so not an `AttentionKernel`, which configurations may choose.
    """

    def __call__(self, q: Heads, k: Heads, v: Heads, dropout: float = 0.0) -> Heads:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


@dataclass(frozen=True)
class ProductAttention(AttentionKernel):
    """Two matrix products and a softmax: the fastest on CPUs for short sequences.

    Logits of all pairs are held in memory, with minus infinity as the start of the sum that makes
    those of later positions.
    """

    dtype: torch.dtype | None = None
    """Precision of the products; by default that of the inputs."""

    def __call__(self, q: Heads, k: Heads, v: Heads, dropout: float = 0.0) -> Heads:
        batch, heads, length, head_dim = q.shape
        dtype = self.dtype or q.dtype
        rows = [each.to(dtype) for each in (q, k, v)]
        padded = length
        if dtype in HALVES and length % LANES:  # by later positions, which nothing sees
            padded += -length % LANES
            rows = [F.pad(each, (0, 0, 0, padded - length)) for each in rows]
        rows = [each.reshape(-1, padded, head_dim) for each in rows]
        start = torch.full((padded, padded), -torch.inf, dtype=dtype, device=q.device).triu(1)
        with torch.autocast(q.device.type, enabled=False):
            logits = torch.baddbmm(start, rows[0], rows[1].mT, alpha=head_dim**-0.5)
            weights = F.dropout(logits.softmax(dim=-1), dropout)
            attended = torch.bmm(weights, rows[2])
        attended = attended.unflatten(0, (batch, heads))
        return attended[:, :, :length].to(q.dtype)


class FusedAttention(AttentionKernel):
    """A kernel with a first derivative alone: where others are asked for, products take over.

    Under the transforms of `torch.func` they do from the start. In autograd they do for a gradient
    that is itself differentiated, except with dropout, whose draws would differ.
    """

    @abstractmethod
    def fused(self, q: Heads, k: Heads, v: Heads, dropout: float) -> Heads:
        """Attend by the kernel."""

    def __call__(self, q: Heads, k: Heads, v: Heads, dropout: float = 0.0) -> Heads:
        if transformed():
            return ProductAttention()(q, k, v, dropout)
        followed = torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v))
        if dropout or torch.compiler.is_compiling() or not followed:
            return self.fused(q, k, v, dropout)
        inner = cast(tuple[Tensor, Tensor, Tensor], _Entry.apply(q, k, v))
        return cast(Tensor, _Exit.apply(self.fused(*inner, dropout), q, k, v))


class _Entry(torch.autograd.Function):
    """The identity in front of a kernel, whose gradient counts where it is the last."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        return inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None) if _goes_on() else gradients


class _Exit(torch.autograd.Function):
    """The identity behind a kernel, whose gradient goes around it where others follow."""

    @staticmethod
    def forward(ctx: Any, attended: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)  # as the kernel does: no memory
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not _goes_on():
            return gradient, None, None, None
        pull_back = torch.func.vjp(ProductAttention(), *ctx.saved_tensors)[1]
        return torch.zeros_like(gradient), *pull_back(gradient)


def _goes_on() -> bool:
    """Whether the gradient that is computed may be differentiated again, or is batched."""
    return torch.is_grad_enabled() or transformed()


def transformed() -> bool:
    """Whether this runs under a transform of `torch.func`, as batched gradients of autograd do."""
    return torch._C._are_functorch_transforms_active()  # torch has no public name for it


@dataclass(frozen=True)
class TorchAttention(FusedAttention):
    """torch's own kernel: flash attention where the hardware and the precision allow it."""

    def fused(self, q: Heads, k: Heads, v: Heads, dropout: float) -> Heads:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


@dataclass(frozen=True)
class FlashAttention(FusedAttention):
    """The `flash_attn` package (an extra: `pip install tarflow[flash]`), on CUDA in 16 bits."""

    def fused(self, q: Heads, k: Heads, v: Heads, dropout: float) -> Heads:
        swapped = (each.transpose(1, 2) for each in (q, k, v))
        return _packaged()(*swapped, dropout_p=dropout, causal=True).transpose(1, 2)

    def refusal(self, like: Tensor) -> str | None:
        try:  # an importable package may lack the symbol
            _packaged()
        except (ImportError, OSError, AttributeError) as error:
            return f"the package flash_attn cannot be used: {error}"
        return _refuse_all_but_cuda_halves(like)


@dataclass(frozen=True)
class TorchFlashAttention(FusedAttention):
    """Another version of flash attention within torch (2.13 and newer).

    Attributes:
        version: `FA3` (compute capability 9) or `FA4` (9 and 10), each from a package of its own.
    """

    version: str = "FA3"

    def __post_init__(self):
        if self.version not in ("FA3", "FA4"):
            raise ConfigurationError(f"version {self.version!r}: torch knows FA3 and FA4")

    def fused(self, q: Heads, k: Heads, v: Heads, dropout: float) -> Heads:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        _activate(self.version)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)

    def refusal(self, like: Tensor) -> str | None:
        refused = _refuse_all_but_cuda_halves(like)
        if refused is None:
            try:
                _activate(self.version)
            except Exception as error:  # of the package, of torch, or of the device
                refused = f"torch cannot switch to {self.version}: {error}"
        return refused


@dataclass(frozen=True)
class AutoAttention(AttentionKernel):
    """The fastest of what works here."""

    def __call__(self, q: Heads, k: Heads, v: Heads, dropout: float = 0.0) -> Heads:
        return _fastest(q)(q, k, v, dropout)

    def serving(self, like: Heads) -> AttentionKernel:
        kernel = _fastest(like)
        log.info("attention of %s on %s: %s", like.dtype, like.device.type, kernel)
        return kernel


def _fastest(like: Tensor) -> AttentionKernel:
    """What is known to be fastest on a device."""
    if like.device.type == "cpu":
        if like.shape[-2] > SHORT.get(like.dtype, 128):
            return TorchAttention()
        return ProductAttention(torch.float32 if _widening_pays(like.dtype) else None)
    candidates = (TorchFlashAttention("FA4"), TorchFlashAttention("FA3"), FlashAttention())
    if like.is_cuda and torch.cuda.get_device_capability(like.device) >= (9, 0):
        for kernel in candidates:
            if kernel.refusal(like) is None:
                return kernel
    # Before Hopper, torch's own flash kernel is the package's.
    return TorchAttention()


@cache
def _widening_pays(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies 16 bits more slowly than 32, as one without AMX does."""
    from tarflow.machine.device import matrix_rate

    if dtype not in HALVES:
        return False
    state = torch.get_rng_state()  # nobody's draws depend on this
    rates = [matrix_rate("cpu", each, largest=256) for each in (dtype, torch.float32)]
    torch.set_rng_state(state)
    return rates[0] < rates[1]


def _packaged() -> Callable[..., Tensor]:
    """The function of the package flash_attn, which few machines have."""
    return import_module("flash_attn").flash_attn_func


@cache
def _activate(version: str) -> None:
    """Switch torch's flash kernel, for the whole process."""
    from torch.nn import attention

    if not hasattr(attention, "activate_flash_attention_impl"):
        raise ConfigurationError(f"torch {torch.__version__} has no such switch: 2.13 has")
    attention.activate_flash_attention_impl(version)


def _refuse_all_but_cuda_halves(like: Tensor) -> str | None:
    """Why a flash kernel cannot read a tensor."""
    if not like.is_cuda:
        return f"it computes on CUDA devices, not on {like.device.type}"
    if like.dtype not in HALVES:
        return f"it computes in float16 and bfloat16, not in {like.dtype}: set trainer.precision"
    return None
