"""Kernels that write keys and values into a cache and attend to it at once."""

from collections.abc import Callable
from functools import cache
from importlib import import_module

import torch
from jaxtyping import Int
from torch import Tensor

from tarflow.nn.kernels import HALVES, Heads


def cached_kernel(like: Heads) -> Callable[..., Heads] | None:
    """What attends to cached keys better than torch's kernels, for queries like these, if any.

    It takes queries, all cached keys and values, new keys and values, and where these begin in
    each sequence; it writes them there and reads no further than that.
    """
    return flash_cached if like.is_cuda and like.dtype in HALVES and _appends() else None


def flash_cached(
    q: Heads, keys: Heads, values: Heads, k: Heads, v: Heads, first: Int[Tensor, " batch"]
) -> Heads:
    """Write new keys and values into a cache and attend, by one kernel of `flash_attn`."""
    rows = (each.transpose(1, 2) for each in (q, keys, values, k, v))
    attend = import_module("flash_attn").flash_attn_with_kvcache
    return attend(*rows, cache_seqlens=first.to(torch.int32), causal=True).transpose(1, 2)


@cache
def _appends() -> bool:
    """Whether the package flash_attn is here, with its kernel for caches."""
    try:
        return callable(import_module("flash_attn").flash_attn_with_kvcache)
    except (ImportError, OSError, AttributeError):
        return False
