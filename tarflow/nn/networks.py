"""Transformers made ready to decode: weights cast once, packed once, compiled if asked for."""

import copy
import threading
from dataclasses import dataclass
from functools import cached_property

import torch

from tarflow.errors import ConfigurationError
from tarflow.nn.cache_memory import CacheMemory
from tarflow.nn.compiled import CompiledNetwork, GraphMemory
from tarflow.nn.packing import PackedTransformer, can_pack
from tarflow.nn.snapshot import Snapshot
from tarflow.nn.transformer import CausalTransformer

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Network = CausalTransformer | CompiledNetwork | PackedTransformer
"""A transformer as it was trained, or as decoding runs it."""


@dataclass(frozen=True)
class Prepared:
    """A transformer made ready, and what it was made from."""

    network: CausalTransformer
    dtype: torch.dtype
    snapshot: Snapshot
    ready: Network

    def serves(self, network: CausalTransformer, dtype: torch.dtype) -> bool:
        """Whether it is of a transformer as that is now, in a precision."""
        return self.network is network and self.dtype == dtype and self.snapshot.shows(network)


class Networks:
    """Keeps transformers ready to decode, so that many batches prepare them once.

    Any number of threads may use one: a transformer is prepared by the first that asks for it.

    Args:
        dtype: Precision in which transformers compute; by default that of their weights. The
            flow's state stays in float32 or above.
        compile: Whether single steps run compiled; see `CompiledNetwork`.

    Raises:
        ConfigurationError: The dtype is not one to compute in.
    """

    def __init__(self, dtype: torch.dtype | None = None, compile: bool = False):
        if dtype is not None and dtype not in DTYPES:
            raise ConfigurationError(f"dtype {dtype}: choose one of {', '.join(map(str, DTYPES))}")
        self.dtype = dtype
        self.compile = compile
        self.memory = GraphMemory() if compile else CacheMemory()
        self.prepared: dict[int, Prepared] = {}
        self.lock = threading.RLock()

    @cached_property
    def exact(self) -> "Networks":
        """The same in no less than float32 and the weights' own precision, not compiled."""
        return ExactNetworks()

    def lowers(self, network: CausalTransformer) -> bool:
        """Whether the transformer is made ready in a lower precision than `exact` has."""
        return torch.finfo(self._dtype(network)).eps > torch.finfo(self.exact._dtype(network)).eps

    def of(self, network: CausalTransformer) -> Network:
        """The transformer, ready; made anew where it has changed since, its weights or modules.

        What needs no preparation is left alone; everything else is done to a copy.
        """
        dtype = self._dtype(network)
        with self.lock:
            kept = self.prepared.get(id(network))
            if kept is None or not kept.serves(network, dtype):
                if not (self.compile or dtype != network.dtype or can_pack(network)):
                    return network
                kept = self.prepared[id(network)] = self._copy(network, dtype)
            return kept.ready

    def _copy(self, network: CausalTransformer, dtype: torch.dtype) -> Prepared:
        """Prepare a copy."""
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            copied = copy.deepcopy(network).requires_grad_(False)
            snapshot = Snapshot(network, copied)
            return Prepared(network, dtype, snapshot, self._prepare(copied))

    def _dtype(self, network: CausalTransformer) -> torch.dtype:
        """The precision to compute in: as asked for, or that of autocast, or of the weights."""
        device = network.like.device.type
        if self.dtype is not None:
            return self.dtype
        if torch.is_autocast_enabled(device) and network.dtype != torch.float64:
            return torch.get_autocast_dtype(device)
        return network.dtype  # of float64, which autocast leaves alone, too

    def _prepare(self, network: CausalTransformer) -> Network:
        """Cast, and pack or compile, a copy that is nobody else's."""
        ready = network.to(self._dtype(network))
        if isinstance(self.memory, GraphMemory):
            return CompiledNetwork(ready, memory=self.memory)
        return PackedTransformer(ready, self.memory) if can_pack(ready) else ready


class ExactNetworks(Networks):
    """Transformers in the precision of their weights, and no less than float32."""

    def _dtype(self, network: CausalTransformer) -> torch.dtype:
        return torch.promote_types(network.dtype, torch.float32)
