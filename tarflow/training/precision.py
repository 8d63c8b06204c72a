"""The precision of training: what is kept is float32, and products may be of less."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from tarflow.errors import ConfigurationError

log = logging.getLogger(__name__)

PRODUCTS = {"exact": None, "tf32": "high", "bf16": "medium"}
"""What products of float32 matrices may be computed in, and what torch calls that."""

ALLOWED = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")


def check_precision(precision: str, sharded: bool = False) -> None:
    """Refuse what would round weights, averages or noise, by the name of Lightning's precision.

    Raises:
        ConfigurationError: It is refused; says what to use.
    """
    advice = "use bf16-mixed, which multiplies in bfloat16, or 32-true"
    if precision not in ALLOWED:
        raise ConfigurationError(
            f"precision {precision} is not one of 32-true, bf16-mixed and 16-mixed, which keep the"
            f" weights, their averages and the noise in float32: {advice}"
        )
    if sharded and precision in ("16-mixed", "16"):
        raise ConfigurationError(
            "precision 16-mixed scales the loss, which weights that are divided between processes"
            f" (trainer=fsdp2) do not support: {advice}"
        )


def check_weights_wide(model: nn.Module) -> None:
    """Refuse to train weights of 16 bits, which small steps would leave as they are.

    Raises:
        ConfigurationError: A weight has fewer than 32 bits; names it.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype.itemsize < 4:
            raise ConfigurationError(
                f"{name} is {str(parameter.dtype).removeprefix('torch.')}, and training keeps"
                " weights in float32: call .float() first; trainer.precision=bf16-mixed"
                " multiplies in bfloat16"
            )


def unscale(precision: Precision, optimizer: Optimizer) -> GradScaler | None:
    """Turn the gradients of a scaled loss into those of the loss; returns what scales it.

    Lightning leaves that to fused optimizers, after gradients were clipped.
    """
    scaler = precision.scaler if isinstance(precision, MixedPrecision) else None
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)
    return scaler


def check_products(products: str, device: torch.device) -> None:
    """Refuse products of float32 matrices that a device does not compute, and log coarser ones.

    Raises:
        ConfigurationError: There are no such products, or not there; says what to use.
    """
    if products not in PRODUCTS:
        raise ConfigurationError(f"products {products} must be one of {', '.join(PRODUCTS)}")
    if products == "tf32" and (
        device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)
    ):
        raise ConfigurationError(
            f"products tf32 are of NVIDIA GPUs from compute capability 8.0 on, and not of {device}"
            " here: use exact"
        )
    if products == "bf16" and not (
        device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        raise ConfigurationError(
            "products bf16 of float32 matrices are of CPUs with AVX-512, and not of"
            f" {device} here: use exact"
        )
    if products != "exact":
        log.info(f"float32 matrices are multiplied in {products} in training steps")


@contextmanager
def multiplying(products: str) -> Iterator[None]:
    """Let matrices of float32 be multiplied in less; what holds elsewhere in the process returns.

    torch knows one such setting for all threads.
    """
    if (name := PRODUCTS[products]) is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
