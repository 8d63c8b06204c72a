"""The most bytes that tensors take while something runs."""

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def peak_memory(
    run: Callable[[], object], device: torch.device, held: Iterable[Tensor] = ()
) -> int:
    """Run something, and return the peak.

    On a GPU that is what torch's allocator had handed out at most, with what was there before. On
    a CPU it is the largest sum of allocations and releases by torch's allocator, as its profiler
    sees them: all tensors that were made meanwhile, but not the scratch space of libraries.

    Args:
        run: What to run.
        device: Where.
        held: Tensors that were there before and belong to it; asked for on a CPU alone.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    before = sum(tensor.untyped_storage().nbytes() for tensor in held)
    return before + max(accumulate(_changes(profiler)), default=0)


def _changes(profiler: profile) -> list[int]:
    """Bytes allocated and released, in the order of time."""
    # The profiler's list of events leaves out what was allocated inside of an operator.
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
