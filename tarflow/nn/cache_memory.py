"""The memory in which decoding keeps keys and values, from one batch to the next."""

import threading
from collections.abc import Callable, Hashable
from typing import Any, ClassVar
from weakref import WeakSet

import torch

from tarflow.nn.attention import KVCache


class CacheMemory(threading.local):
    """Keeps the storage of caches for the next ones: in a thread one is in use for each kind.

    Writing to fresh memory for the first time is 7 % of decoding 64 examples.
    """

    everywhere: ClassVar[WeakSet["CacheMemory"]] = WeakSet()

    def __init__(self):
        self.caches: dict[Hashable, Any] = {}
        self.everywhere.add(self)

    def new_cache(self, kind: Hashable, rows: int, make: Callable[[int], KVCache]) -> KVCache:
        """A cache of so many sequences; `make` makes one if none of this kind can be used.

        What it holds is finite: masked, it counts zero times, which what is not finite would not.
        """
        # Tensors made in inference mode cannot be written to outside of it.
        kind = (kind, torch.is_inference_mode_enabled())
        kept = self.caches.get(kind)
        if kept is None or kept[0] != rows:
            kept = self.caches[kind] = (rows, make(rows))
        cache = kept[1]
        if not cache.clean:
            cache.clear()
        cache.clean = False  # until whoever decodes with it finds that it is
        return cache

    def release(self) -> None:
        """Let go of what this thread keeps; whoever still decodes with it may go on."""
        self.caches.clear()


def release_caches() -> None:
    """Let go of what all memories keep for this thread, as when memory runs out."""
    for memory in tuple(CacheMemory.everywhere):
        memory.release()
