"""Transformers made ready to decode: weights cast once, packed once, compiled if asked for."""

import copy
from functools import cached_property

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tarflow.errors import ConfigurationError
from tarflow.nn.compiled import CompiledNetwork
from tarflow.nn.packing import CacheMemory, PackedTransformer, can_pack
from tarflow.nn.transformer import CausalTransformer

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Network = CausalTransformer | CompiledNetwork | PackedTransformer
"""A transformer as it was trained, or as decoding runs it."""


class Networks:
    """Keeps transformers ready to decode, so that many batches prepare them once.

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
        self.memory = CacheMemory()
        self.ready: dict[int, tuple[CausalTransformer, tuple, Network]] = {}

    @cached_property
    def exact(self) -> "Networks":
        """The same in no less than float32 and the weights' own precision, not compiled."""
        return ExactNetworks()

    def lowers(self, network: CausalTransformer) -> bool:
        """Whether the transformer is made ready in a lower precision than `exact` has."""
        return torch.finfo(self._dtype(network)).eps > torch.finfo(self.exact._dtype(network)).eps

    def of(self, network: CausalTransformer) -> Network:
        """The transformer, ready; made anew where its weights have changed since."""
        state = (self._dtype(network), network.training, *fingerprint(network))
        kept = self.ready.get(id(network))
        if kept is None or kept[0] is not network or kept[1] != state:
            kept = self.ready[id(network)] = (network, state, self._prepare(network))
        return kept[2]

    def _dtype(self, network: CausalTransformer) -> torch.dtype:
        """The precision to compute in: as asked for, or that of autocast, or of the weights."""
        device = network.position_embedding.device.type
        if self.dtype is not None:
            return self.dtype
        if torch.is_autocast_enabled(device) and network.dtype != torch.float64:
            return torch.get_autocast_dtype(device)
        return network.dtype  # of float64, which autocast leaves alone, too

    def _prepare(self, network: CausalTransformer) -> Network:
        """Cast, pack and compile a copy; what needs none of these is left alone."""
        dtype = self._dtype(network)
        ready = network if dtype == network.dtype else copy.deepcopy(network).to(dtype)
        if self.compile:
            return CompiledNetwork(ready)
        return PackedTransformer(ready, self.memory) if can_pack(ready) else ready


class ExactNetworks(Networks):
    """Transformers in the precision of their weights, and no less than float32."""

    def _dtype(self, network: CausalTransformer) -> torch.dtype:
        return torch.promote_types(network.dtype, torch.float32)


class OptimizerSteps:
    """Counts the steps of all optimizers: fused ones change weights but not their versions."""

    count = 0

    @classmethod
    def add(cls, *_: object) -> None:
        """Count one."""
        cls.count += 1


register_optimizer_step_post_hook(OptimizerSteps.add)


def fingerprint(network: CausalTransformer) -> tuple:
    """Tells the weights of one moment from those of another, without reading them.

    Blind to what is written into `weight.data` in place.
    """
    # Tensors made in inference mode count no versions, and cannot be changed outside of it.
    versions = (
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in network.parameters()
    )
    return (OptimizerSteps.count, *versions)
