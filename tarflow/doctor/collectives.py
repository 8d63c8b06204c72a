"""Checks of what processes speak to each other with: NCCL between GPUs, gloo between CPUs."""

from datetime import timedelta

import torch
import torch.distributed as dist

from tarflow.doctor.findings import Finding, State
from tarflow.nn.probes import first_lines


def find_collectives(devices: list[torch.device], quick: bool) -> list[Finding]:
    """Sum a tensor in a group of one process, by each library that is to be had here.

    It is broken where there are several devices, which only such a library can use together.
    """
    if not dist.is_available():
        return [Finding("processes", "torch.distributed", State.NOTE, "not in this torch")]
    cpu, worst = torch.device("cpu"), State.BROKEN if len(devices) > 1 else State.WARNING
    findings = [_try("gloo", cpu, State.WARNING)] if dist.is_gloo_available() else []
    if not dist.is_nccl_available():
        return [*findings, Finding("processes", "nccl", State.NOTE, "not in this torch")]
    if devices[0].type != "cuda" or quick:
        reason = "skipped, being quick" if devices[0].type == "cuda" else "needs a CUDA device"
        return [*findings, Finding("processes", "nccl", State.NOTE, f"available; {reason}")]
    return [*findings, _try("nccl", devices[0], worst)]


def _try(backend: str, device: torch.device, worst: State) -> Finding:
    """Make a group of this process alone, sum in it, and take it down again."""
    # A store in memory: no port, hence nothing that another job could hold.
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    limit = timedelta(seconds=30)
    try:
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=limit)
        total = torch.ones(2, device=device)
        dist.all_reduce(total)
        torch.testing.assert_close(total.cpu(), torch.ones(2))
    except Exception as error:
        return Finding("processes", backend, worst, first_lines(error))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return Finding("processes", backend, State.GOOD, f"works on {device}")
