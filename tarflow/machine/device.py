"""What a device does at best: bytes copied and operations multiplied in a second."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

MEGABYTE = 2**20
Key = TypeVar("Key")

LARGEST = 8192
"""Side of the largest matrices."""


def now(device: torch.device | str) -> float:
    """The time at which a device has finished what it was given."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def fastest(function: Callable[[], object], device: torch.device | str, repeats: int = 5) -> float:
    """Seconds of the fastest of several runs, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        begin = now(device)
        function()
        times.append(now(device) - begin)
    return min(times)


def medians(
    functions: Mapping[Key, Callable[[], object]],
    device: torch.device | str,
    repetitions: int,
    tell: Callable[[Key], None] = lambda key: None,
) -> dict[Key, float]:
    """Median seconds of each of several functions, run in turns, so that none is favoured.

    Args:
        functions: What is timed; what warms up is the caller's to do before.
        device: Where they compute.
        repetitions: How many turns.
        tell: Called with the key of what is timed next.
    """
    times: dict[Key, list[float]] = {key: [] for key in functions}
    for _ in range(repetitions):
        for key, function in functions.items():
            tell(key)
            begin = now(device)
            function()
            times[key].append(now(device) - begin)
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def copy_bandwidth(device: torch.device | str, megabytes: int) -> float:
    """Bytes read and written per second by a copy of half that many megabytes."""
    source = torch.ones(megabytes * MEGABYTE // 8, device=device)
    target = torch.zeros_like(source)
    rounds = max(1, 128 // megabytes)

    def copy() -> None:
        for _ in range(rounds):
            target.copy_(source)

    return rounds * megabytes * MEGABYTE / fastest(copy, device)


def matrix_rate(
    device: torch.device | str,
    dtype: torch.dtype,
    largest: int = LARGEST,
    enough: float = 0.05,
    prepare: Callable[[Tensor], Callable[[Tensor], Tensor]] = lambda b: lambda a: a @ b,
) -> float:
    """Operations per second of products of square matrices; the best of growing ones.

    They grow to a largest side, or until one takes `enough` seconds. A matrix is prepared for
    products with it beforehand.
    """
    best, side, seconds = 0.0, 256, 0.0
    while side <= largest and seconds <= enough:
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        product = prepare(b)
        seconds = fastest(lambda a=a, product=product: product(a), device)
        best = max(best, 2 * side**3 / seconds)
        side *= 2
    return best
