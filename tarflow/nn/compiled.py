"""Single decoding steps, compiled."""

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tarflow.nn.attention import Fronts, KVCache, Window
from tarflow.nn.cache_memory import CacheMemory
from tarflow.nn.snapshot import Outline
from tarflow.nn.transformer import CausalTransformer, Condition, Prefix

KINDS: dict[Hashable, int] = {}
NUMBERS = itertools.count()
"""A number for each outline of a network: those of one share compiled code."""


class Room:
    """The storage of a cache, and what reads it at its addresses: views, and CUDA graphs.

    Args:
        rows: Number of sequences that it has room for.
        cache: The cache, which has its storage.
    """

    def __init__(self, rows: int, cache: KVCache):
        self.rows, self.cache = rows, cache
        self.views: dict[int, KVCache] = {}
        self.graphs: WeakKeyDictionary[CompiledNetwork, dict[Hashable, Graph]]
        self.graphs = WeakKeyDictionary()
        # One for all graphs: they run in turn, and what they return is copied at once. A stream on
        # which matrices are multiplied has a workspace of its own, 30 MB on an H200.
        self.pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self.stream = torch.cuda.Stream() if torch.cuda.is_available() else None

    def view(self, rows: int) -> KVCache:
        """The cache of the first sequences: always the same, emptied."""
        if rows not in self.views:
            self.views[rows] = self.cache.first(rows)
        cache = self.views[rows]
        cache.clear()  # what is not finite would pass the mask: zero times it is not a number
        return cache

    def run(
        self,
        network: "CompiledNetwork",
        name: Hashable,
        function: Callable[..., Any],
        moving: Sequence[Tensor],
        fixed: Sequence[Tensor],
        owner: object,
    ) -> Any:
        """What a function makes of tensors, by its graph, which is recorded where there is none.

        It has to be copied before the next graph of the room runs.

        Args:
            network: What the function computes with; graphs go with it.
            name: Equal names must stand for equal functions of a network.
            function: It must not wait for the device, nor choose by the content of tensors.
            moving: Tensors that are others at every call.
            fixed: Further ones, which stay what they are as long as the owner asks.
            owner: Who asks.
        """
        graphs = self.graphs.setdefault(network, {})
        if name not in graphs:
            # What is made in inference mode could not be written to outside of it.
            with torch.inference_mode(False), torch.no_grad():
                inputs = (*moving, *fixed)
                graphs[name] = Graph(function, inputs, len(moving), self.pool, self.stream)
        return graphs[name](moving, fixed, owner)


class GraphMemory(CacheMemory):
    """What CUDA graphs read and write, a room for each kind of network: those of one thread.

    Transformers of one kind, which decode in turn, share a room. It is as large as the largest
    batch so far: a smaller one takes its first rows, a larger one gets a new room in its place.
    """

    def new_cache(self, kind: Hashable, rows: int, make: Callable[[int], KVCache]) -> KVCache:
        room = self.caches.get(kind)
        if room is None or room.rows < rows:
            self.caches.pop(kind, None)
            del room  # before memory is taken for more
            room = self.caches[kind] = Room(rows, make(rows))
        return room.view(rows)


class CompiledNetwork:
    """A transformer whose single steps run compiled by inductor on CPUs.

    A step reads a bucket of cached positions, and there is code for each bucket; windows of
    several inputs run as they are. On GPUs it has room for CUDA graphs, of predictions as a whole.

    Args:
        network: The transformer to compile.
        num_buckets: Number of graphs; with more of them, less is read in vain.
        max_graphed_rows: Rows above which no CUDA graph is made: there the kernels take the time,
            not their launches. 64 examples are 128 rows with guidance.
        backend: What compiles on CPUs.
        memory: Where caches and graphs lie; transformers that decode in turn share it.
    """

    def __init__(
        self,
        network: CausalTransformer,
        num_buckets: int = 4,
        max_graphed_rows: int = 128,
        backend: str = "inductor",
        memory: GraphMemory | None = None,
    ):
        self.network = network
        self.dtype = network.dtype
        self.bucket = -(-network.length // num_buckets)
        self.max_graphed_rows = max_graphed_rows
        self.backend = backend
        self.device = network.like.device
        self.kind = KINDS.setdefault(Outline(network).description, next(NUMBERS))
        self.memory = memory or GraphMemory()

    def new_cache(self, rows: int) -> KVCache:
        """A cache that has its storage; where there are graphs, the one they were made for."""
        if not self.has_graphs or rows > self.max_graphed_rows:
            return self._stored(rows)
        return self.memory.new_cache(self.place, rows, self._stored)

    @property
    def has_graphs(self) -> bool:
        """Whether CUDA graphs run the steps, and not code."""
        return self.device.type == "cuda"

    @property
    def place(self) -> Hashable:
        """What it shares with the networks that use the same room."""
        return self.kind, self.dtype, self.device

    def _stored(self, rows: int) -> KVCache:
        """A cache with storage, empty: a step gives every layer the storage that it writes to."""
        # What is made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            cache, network = self.network.new_cache(rows), self.network
            x = network.like.new_zeros(rows, 1, network.in_features)
            network(x, network.conditioned(None), Window(0, cache))
        cache.clear()
        return cache

    def conditioned(self, vector: Float[Tensor, "batch *length model_dim"] | None) -> Condition:
        """As the transformer's own."""
        return self.network.conditioned(vector)

    def __call__(
        self,
        x: Float[Tensor, "batch window in_features"],
        condition: Condition,
        window: Window,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch window out_features"]:
        """Transform the vectors of a window."""
        cache, start = window.cache, window.start
        several = x.shape[1] > 1 or prefix is not None
        if self.has_graphs or several or cache is None or isinstance(start, Fronts):
            return self.network(x, condition, window, prefix=prefix)
        position, num_keys = torch.full((1,), int(start)), self.bucket_of(int(start) + 1)
        # A copy, for the strides of a slice would make another graph.
        inputs = x.clone(memory_format=torch.contiguous_format), position, condition
        step = Step(*inputs, window.temperature, num_keys, cache, window.places)
        return compiled_step(self.kind, step.shape, self.backend)(self.network, step)

    def bucket_of(self, end: int) -> int:
        """The number of cached positions that is read for those before an end."""
        return min(self.network.length, -(-end // self.bucket) * self.bucket)

    def room_of(self, cache: KVCache) -> Room | None:
        """Where a cache lies, if there are graphs for it."""
        room = self.memory.caches.get(self.place)
        held = room is not None and any(each is cache for each in room.views.values())
        return room if held else None


@dataclass(frozen=True)
class Step:
    """Inputs of a network at a position that is a tensor, so that compiled code serves all.

    Attributes:
        x: Inputs at one or several positions.
        position: That of the first input, the same in all sequences or one for each.
        condition: What the network adds.
        temperature: As in a `Window`.
        num_keys: Number of cached positions that are read.
        cache: Keys and values; storage of every layer is there.
        places: As in a `Window`.
    """

    x: Float[Tensor, "batch window in_features"]
    position: Int[Tensor, " #batch"]
    condition: Condition
    temperature: Float[Tensor, " batch"] | None
    num_keys: int
    cache: KVCache
    places: Int[Tensor, "batch length"] | None = None

    @property
    def shape(self) -> tuple[Hashable, ...]:
        """What it shares with the steps that its code serves."""
        given = [None if each is None else each.ndim for each in self.inputs[2:]]
        return *self.x.shape[:2], len(self.position), self.num_keys, *given

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """All tensors but those of the cache."""
        return self.x, self.position, self.condition, self.temperature, self.places


def take_step(network: CausalTransformer, step: Step) -> Tensor:
    """What is compiled; the network is an argument, so that transforms share the code."""
    fronts = Fronts.at(step.position, step.x.shape[1], step.num_keys)
    window = Window(fronts, step.cache, step.temperature, step.places)
    return network(step.x, step.condition, window)


@cache
def compiled_step(kind: int, shape: Hashable, backend: str) -> Callable[..., Tensor]:
    """`take_step` compiled for one kind of network and steps of one shape.

    Each has code of its own: dynamo compiles the same code for a few shapes and then refuses.
    """
    own = FunctionType(take_step.__code__.replace(), take_step.__globals__)
    return torch.compile(own, dynamic=False, fullgraph=True, backend=backend)


class Graph:
    """A function recorded as a CUDA graph: its kernels start at once, not one by one.

    It reads its inputs at the addresses that it was recorded with, and copies new ones there.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Tensor],
        num_moving: int,
        pool: Any,
        stream: Any,
    ):
        copied = [each.clone() for each in inputs]
        self.moving, self.fixed = copied[:num_moving], copied[num_moving:]
        self.owner: Callable[[], object] = lambda: None
        # A recording must not be what first loads kernels.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(*copied)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(self.graph, pool, stream, capture_error_mode="thread_local"):
            self.outputs = function(*copied)

    def __call__(self, moving: Sequence[Tensor], fixed: Sequence[Tensor], owner: object) -> Any:
        """Run the function on other inputs; fixed ones are copied where the owner is another."""
        for static, new in zip(self.moving, moving, strict=True):
            static.copy_(new)
        if self.owner() is not owner:
            for static, new in zip(self.fixed, fixed, strict=True):
                static.copy_(new)
            self.owner = ref(owner)
        self.graph.replay()
        return self.outputs
