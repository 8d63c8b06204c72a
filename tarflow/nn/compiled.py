"""Single decoding steps, compiled."""

import itertools
import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cache
from types import FunctionType

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow.nn.attention import KVCache, Step, Window
from tarflow.nn.snapshot import Outline
from tarflow.nn.transformer import CausalTransformer

KINDS: dict[Hashable, int] = {}
NUMBERS = itertools.count()
"""A number for each outline of a network: those of one share compiled code."""


class Buffers(threading.local):
    """What CUDA graphs read and write at fixed addresses, and the graphs: those of one thread."""

    def __init__(self):
        self.graphs: dict[tuple, GraphedStep] = {}
        self.caches: dict[int, KVCache] = {}


class CompiledNetwork:
    """A transformer whose single steps run compiled: inductor on CPUs, CUDA graphs on GPUs.

    A step reads a bucket of cached positions, and there is one graph for each bucket; windows of
    several inputs run as they are.

    Args:
        network: The transformer to compile.
        num_buckets: Number of graphs; with more of them, less is read in vain.
        max_graphed_rows: Rows above which no CUDA graph is made: there the kernels take the time,
            not their launches. 64 examples are 128 rows with guidance.
        backend: What compiles on CPUs.
    """

    def __init__(
        self,
        network: CausalTransformer,
        num_buckets: int = 4,
        max_graphed_rows: int = 128,
        backend: str = "inductor",
    ):
        self.network = network
        self.dtype = network.dtype
        self.bucket = -(-network.length // num_buckets)
        self.max_graphed_rows = max_graphed_rows
        self.backend = backend
        self.kind = KINDS.setdefault(Outline(network).description, next(NUMBERS))
        self.own = Buffers()

    def new_cache(self, rows: int) -> KVCache:
        """A cache that has its storage; where there are graphs, the one they were made for."""
        cache = self.own.caches.get(rows)
        if cache is None:
            cache, network = self.network.new_cache(rows), self.network
            table = network.position_embedding
            # A step gives every layer the storage that it writes to.
            x = table.new_zeros(rows, 1, network.in_features)
            network(x, None, Window(0, cache))
            if table.is_cuda and rows <= self.max_graphed_rows:
                self.own.caches[rows] = cache
        cache.clear()  # what is not finite would pass the mask: zero times it is not a number
        return cache

    def __call__(
        self,
        x: Float[Tensor, "batch window in_features"],
        condition: Float[Tensor, "batch model_dim"] | None,
        window: Window,
    ) -> Float[Tensor, "batch window out_features"]:
        """Transform the vectors of a window."""
        too_many = x.is_cuda and len(x) > self.max_graphed_rows
        if window.cache is None or x.shape[1] > 1 or too_many:
            return self.network(x, condition, window)
        position = torch.full((1,), window.start, device=x.device)
        num_keys = min(self.network.length, (window.start // self.bucket + 1) * self.bucket)
        step = Step(position, num_keys, window.cache, window.temperature)
        if not x.is_cuda:
            # A copy, for the strides of a slice would make another graph.
            x = x.clone(memory_format=torch.contiguous_format)
            compiled = compiled_step(self.kind, len(x), num_keys, self.backend)
            return compiled(self.network, x, condition, step)
        key = len(x), num_keys, condition is None, window.temperature is None
        if key not in self.own.graphs:
            self.own.graphs[key] = GraphedStep(self.network, x, condition, step)
        return self.own.graphs[key](x, condition, step)


def take_step(
    network: CausalTransformer,
    x: Float[Tensor, "batch 1 in_features"],
    condition: Float[Tensor, "batch model_dim"] | None,
    step: Step,
) -> Float[Tensor, "batch 1 out_features"]:
    """What is compiled; the network is an argument, so that transforms share the code."""
    return network(x, condition, step)


@cache
def compiled_step(kind: int, rows: int, num_keys: int, backend: str) -> Callable[..., Tensor]:
    """`take_step` compiled for one kind of network, one number of rows and one of keys.

    Each has code of its own: dynamo compiles the same code for a few shapes and then refuses.
    """
    own = FunctionType(take_step.__code__.replace(), take_step.__globals__)
    return torch.compile(own, dynamic=False, fullgraph=True, backend=backend)


class GraphedStep:
    """A step recorded as a CUDA graph: its kernels start at once, not one by one.

    It reads its inputs at the addresses that it was recorded with, and copies new ones there.
    """

    def __init__(
        self,
        network: CausalTransformer,
        x: Float[Tensor, "batch 1 in_features"],
        condition: Float[Tensor, "batch model_dim"] | None,
        step: Step,
    ):
        self.x = x.clone()
        self.condition = None if condition is None else condition.clone()
        temperature = None if step.temperature is None else step.temperature.clone()
        self.step = replace(step, position=step.position.clone(), temperature=temperature)
        # A recording must not be what first loads kernels; this also computes the step itself.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            network(self.x, self.condition, self.step)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = network(self.x, self.condition, self.step)

    def __call__(
        self,
        x: Float[Tensor, "batch 1 in_features"],
        condition: Float[Tensor, "batch model_dim"] | None,
        step: Step,
    ) -> Float[Tensor, "batch 1 out_features"]:
        """Run the step on other inputs."""
        own = (self.x, self.step.position, self.condition, self.step.temperature)
        for static, new in zip(own, (x, step.position, condition, step.temperature), strict=True):
            if static is not None and new is not None:
                static.copy_(new)
        self.graph.replay()
        return self.output.clone()
