"""Checks of devices: what there is, whether it multiplies, and how fast it is."""

import os
from pathlib import Path

import torch

from tarflow.doctor.findings import Finding, State
from tarflow.machine.device import copy_bandwidth, matrix_rate
from tarflow.nn.probes import first_lines, probe_default, probe_kernels

GIB = 2**30
BUSY = ("out of memory", "busy or unavailable")
"""What a device says that works, for someone else."""


def find_devices() -> list[torch.device]:
    """The devices that training would use: all accelerators, or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return [torch.device("cpu")]
    return [torch.device(accelerator.type, i) for i in range(torch.accelerator.device_count())]


def failed(topic: str, name: str, error: Exception) -> Finding:
    """A device that failed; one that is taken is not broken, for training may be what takes it."""
    if any(phrase in str(error) for phrase in BUSY):
        return Finding(topic, name, State.WARNING, f"taken: {first_lines(error)}")
    return Finding(topic, name, State.BROKEN, first_lines(error))


def check_device(device: torch.device) -> Finding:
    """Tell what a device is, and whether it multiplies."""
    try:
        description = _describe(device)
        a = torch.arange(64.0, dtype=torch.float64).reshape(8, 8) / 64
        product = (a.float().to(device) @ a.float().to(device)).cpu()
        torch.testing.assert_close(product, (a @ a).float(), rtol=1e-2, atol=1e-2)  # TF32
    except Exception as error:
        return failed("devices", str(device), error)
    return Finding("devices", str(device), State.GOOD, description)


def find_unusable(folder: Path = Path("/dev")) -> list[Finding]:
    """Tell of GPUs that are there and that torch cannot use, and why."""
    gpus = sorted(folder.glob("nvidia[0-9]*"))
    if not gpus or torch.cuda.is_available():
        return []
    count = f"{len(gpus)} in {folder}"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        text = f"{count}, hidden by CUDA_VISIBLE_DEVICES"
        return [Finding("devices", "GPUs", State.NOTE, text)]
    try:
        torch.cuda.init()
        reason = "CUDA finds none"
    except Exception as error:
        reason = first_lines(error)
    return [Finding("devices", "GPUs", State.BROKEN, f"{count}, not usable: {reason}")]


def _describe(device: torch.device) -> str:
    """What a device is."""
    if device.type == "cpu":
        is_linux = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count()
        capability = torch.backends.cpu.get_cpu_capability()
        return f"{cores} cores, {torch.get_num_threads()} threads, {capability}"
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return (
        f"{properties.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free,"
        f" compute capability {properties.major}.{properties.minor}"
    )


def find_attention(device: torch.device, quick: bool) -> list[Finding]:
    """Tell which attention kernels work; only the one torch picks by itself is needed."""
    default = probe_default(device)
    if default.failure:
        return [failed("attention", default.name, RuntimeError(default.failure))]
    findings = [Finding("attention", default.name, State.GOOD, f"works on {device}")]
    for probe in [] if quick else probe_kernels(device):
        state = State.NOTE if probe.failure else State.GOOD
        text = f"no: {probe.failure}" if probe.failure else "works"
        findings.append(Finding("attention", probe.name, state, text))
    return findings


def measure(device: torch.device) -> list[Finding]:
    """Measure how fast a device copies and multiplies; other work on it counts against it."""
    on_cpu = device.type == "cpu"
    try:
        copied = copy_bandwidth(device, 256 if on_cpu else 2048)
        rates = {
            dtype: matrix_rate(device, dtype, largest=2048 if on_cpu else 8192)
            for dtype in (torch.float32, torch.bfloat16)
        }
    except Exception as error:
        return [failed("rates", str(device), error)]
    multiplied = (
        f"{rate / 1e9:,.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}"
        for dtype, rate in rates.items()
    )
    text = f"copies {copied / 1e9:,.1f} GB/s; products {', '.join(multiplied)}"
    return [Finding("rates", str(device), State.NOTE, text)]
