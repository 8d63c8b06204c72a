"""Transformers made ready to decode: weights cast once, packed once, compiled if asked for."""

import copy
import threading
from dataclasses import dataclass
from functools import cached_property

import torch

from tarflow.nn.cache_memory import CacheMemory
from tarflow.nn.compiled import CompiledNetwork, GraphMemory
from tarflow.nn.lowering import lower_products, round_weights
from tarflow.nn.packing import PackedTransformer, can_pack
from tarflow.nn.precisions import Precision
from tarflow.nn.snapshot import Snapshot
from tarflow.nn.transformer import CausalTransformer

Network = CausalTransformer | CompiledNetwork | PackedTransformer
"""A transformer as it was trained, or as decoding runs it."""


@dataclass(frozen=True)
class Prepared:
    """A transformer made ready, and what it was made from."""

    network: CausalTransformer
    precision: Precision
    snapshot: Snapshot
    ready: Network

    def serves(self, network: CausalTransformer, precision: Precision) -> bool:
        """Whether it is of a transformer as that is now, in a precision."""
        same = self.network is network and self.precision == precision
        return same and self.snapshot.shows(network)


class Networks:
    """Keeps transformers ready to decode, so that many batches prepare them once.

    Any number of threads may use one: a transformer is prepared by the first that asks for it.

    Args:
        dtype: Precision in which transformers compute; by default that of their weights. The
            flow's state stays in float32 or above. By name also `bfloat16_products` and
            `float16_weights`: tensors are of float32, and rounded where the layers multiply them,
            or weights alone are rounded.
        compile: Whether single steps run compiled; see `CompiledNetwork`.

    Raises:
        ConfigurationError: The dtype is not one to compute in.
    """

    def __init__(self, dtype: torch.dtype | str | None = None, compile: bool = False):
        self.precision = None if dtype is None else Precision.of(dtype)
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
        return self._precision(network).eps > self.exact._precision(network).eps

    def of(self, network: CausalTransformer) -> Network:
        """The transformer, ready; made anew where it has changed since, its weights or modules.

        What needs no preparation is left alone; everything else is done to a copy.
        """
        precision = self._precision(network)
        with self.lock:
            kept = self.prepared.get(id(network))
            if kept is None or not kept.serves(network, precision):
                as_it_is = precision == Precision.of(network.dtype)
                if as_it_is and not (self.compile or can_pack(network)):
                    return network
                kept = self.prepared[id(network)] = self._copy(network, precision)
            return kept.ready

    def _copy(self, network: CausalTransformer, precision: Precision) -> Prepared:
        """Prepare a copy."""
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            copied = copy.deepcopy(network).requires_grad_(False)
            snapshot = Snapshot(network, copied)
            return Prepared(network, precision, snapshot, self._prepare(copied))

    def _precision(self, network: CausalTransformer) -> Precision:
        """The precision to compute in: as asked for, or that of autocast, or of the weights."""
        device = network.like.device.type
        if self.precision is not None:
            return self.precision
        if torch.is_autocast_enabled(device) and network.dtype != torch.float64:
            return Precision.of(torch.get_autocast_dtype(device))
        return Precision.of(network.dtype)  # of float64, which autocast leaves alone, too

    def _prepare(self, network: CausalTransformer) -> Network:
        """Cast, and pack or compile, a copy that is nobody else's."""
        precision = self._precision(network)
        ready = network.to(precision.dtype)
        # The layers before and after the blocks stay as they are: a hundredth of the operations,
        # and a third of the deviation (docs/experiments.md).
        if precision.products != precision.dtype:
            lower_products(ready.blocks, precision.products)
        elif precision.weights != precision.dtype:
            round_weights(ready.blocks)
        if isinstance(self.memory, GraphMemory):
            return CompiledNetwork(ready, memory=self.memory)
        return PackedTransformer(ready, self.memory) if can_pack(ready) else ready


class ExactNetworks(Networks):
    """Transformers in the precision of their weights, and no less than float32."""

    def _precision(self, network: CausalTransformer) -> Precision:
        return Precision.of(torch.promote_types(network.dtype, torch.float32))
