"""Windows at positions that are a tensor, as compiled code and CUDA graphs run them.

Compiling itself: tests/compilation.py.
"""

import weakref

import pytest
import torch

from tarflow.nn.attention import Fronts, KVCache, Window
from tarflow.nn.cache_memory import CacheMemory
from tarflow.nn.compiled import CompiledNetwork, GraphMemory, Step, take_step
from tarflow.nn.transformer import CausalTransformer
from tarflow.sampling.chunks import ChunkSize

from ..models import randomized, tiny_network

LENGTH = 9


@pytest.fixture(autouse=True)
def no_gradients():
    """Decode without gradients."""
    with torch.no_grad():
        yield


@pytest.fixture
def network() -> CausalTransformer:
    """Nine positions, with weights that make a difference, in float64."""
    return randomized(tiny_network(3, 4, LENGTH), std=0.3).double()


def stored(network, batch: int, value: float = 0.0) -> KVCache:
    """A cache that has its storage."""
    cache = KVCache(2, LENGTH)
    shape = (2, batch, 2, LENGTH, 8)
    cache.keys = list(torch.full(shape, value, dtype=network.dtype))
    cache.values = list(torch.full(shape, value, dtype=network.dtype))
    return cache


def at(position: list[int], count: int, cache: KVCache, num_keys: int = LENGTH) -> Window:
    """Windows that start at positions of their own."""
    return Window(Fronts.at(torch.tensor(position), count, num_keys), cache)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("batch", [3, 20])
@pytest.mark.parametrize("conditional", [True, False])
def test_every_sequence_has_a_window_of_its_own(network, count, batch, conditional):
    x, condition, temperature = torch.randn(batch, LENGTH, 3).double(), None, None
    if conditional:
        condition = torch.randn(batch, 16).double()
        temperature = torch.rand(batch).double() + 0.5
    expected = network(x, condition, Window(temperature=temperature))
    cache, rows = KVCache(2, LENGTH), torch.arange(batch)[:, None]
    front = torch.zeros(batch, dtype=torch.long)
    while (front < LENGTH - count).any():  # all advance by other steps, some rewrite positions
        position = front.clamp(max=LENGTH - count)
        num_keys = int(position.max()) + count
        fronts = Fronts.at(position, count, num_keys)
        inputs = x[rows, fronts.positions]
        outs = network(inputs, condition, Window(fronts, cache, temperature))
        wanted = expected[rows, fronts.positions]
        torch.testing.assert_close(outs, wanted, rtol=0, atol=1e-12)
        step = Step(inputs, position, condition, temperature, num_keys, cache)
        torch.testing.assert_close(take_step(network, step), wanted, rtol=0, atol=1e-12)
        front += 1 + torch.arange(batch) % count


def test_what_masks_hide_is_never_read(network):
    x, position = torch.randn(2, LENGTH, 3).double(), torch.tensor([1, 4])
    outputs = []
    for value in (0.0, 1e300):
        cache = stored(network, 2, value)
        for store in (*cache.keys, *cache.values):
            store[:, :, :4] = torch.linspace(-1, 1, 8)
        fronts = Fronts.at(position, 2, LENGTH)
        inputs = x[torch.arange(2)[:, None], fronts.positions]
        outputs.append(network(inputs, None, Window(fronts, cache)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("bucket", [1, 2, 4, LENGTH])
@pytest.mark.parametrize("batch", [3, 20])  # few heads and many
@pytest.mark.parametrize("conditional", [True, False])
def test_a_step_is_a_window_of_one(network, bucket, batch, conditional):
    x, condition, temperature = torch.randn(batch, LENGTH, 3).double(), None, None
    if conditional:
        condition = torch.randn(batch, 16).double()
        temperature = torch.rand(batch).double() + 0.5
    one, other = KVCache(2, LENGTH), stored(network, batch)
    whole = network(x, condition, Window(temperature=temperature))
    for i in range(LENGTH):
        expected = network(x[:, i : i + 1], condition, Window(i, one, temperature))
        num_keys = min(LENGTH, (i // bucket + 1) * bucket)
        inputs = x[:, i : i + 1], torch.tensor([i]), condition, temperature
        out = take_step(network, Step(*inputs, num_keys, other))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(out, whole[:, i : i + 1], rtol=0, atol=1e-12)
    for layer in range(2):
        for ours, theirs in zip(other.held(layer), one.held(layer), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_steps_in_other_precisions(network, dtype):
    x = torch.randn(3, LENGTH, 3).double()
    expected, network = network(x), network.to(dtype)
    cache = stored(network, 3)
    for i in range(LENGTH):
        inputs = x[:, i : i + 1], torch.tensor([i]), None, None
        out = take_step(network, Step(*inputs, LENGTH, cache))
        assert out.dtype == dtype
        error = (out.double() - expected[:, i : i + 1]).norm() / expected[:, i].norm()
        assert error < 5 * torch.finfo(dtype).eps


def test_steps_and_windows_share_a_cache(network):
    x, cache = torch.randn(3, LENGTH, 3).double(), stored(network, 3)
    parts = [network(x[:, :4], None, Window(0, cache))]
    parts.append(network(x[:, 4:5], None, at([4], 1, cache, 6)))
    parts.append(network(x[:, 5:8], None, Window(5, cache)))
    parts.append(network(x[:, 8:9], None, at([8], 1, cache)))
    torch.testing.assert_close(torch.cat(parts, dim=1), network(x), rtol=0, atol=1e-12)


def test_later_positions_do_not_matter(network):
    x = torch.randn(3, LENGTH, 3).double()
    outputs = []
    for value in (0.0, 1e3):
        cache = stored(network, 3)
        for store in (*cache.keys, *cache.values):
            store.fill_(value)
        outputs.append(network(x[:, :1], None, at([0], 1, cache)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(("num_buckets", "bucket"), [(1, 9), (2, 5), (4, 3), (9, 1), (50, 1)])
def test_buckets_hold_every_position(network, num_buckets, bucket):
    assert CompiledNetwork(network, num_buckets).bucket == bucket


def test_a_compiled_network_runs_windows_as_they_are(network):
    compiled, x = CompiledNetwork(network), torch.randn(3, LENGTH, 3).double()
    assert compiled.dtype == torch.float64
    cache = compiled.new_cache(3)
    parts = [compiled(x[:, i : i + 3], None, Window(i, cache)) for i in range(0, LENGTH, 3)]
    torch.testing.assert_close(torch.cat(parts, dim=1), network(x), rtol=0, atol=1e-12)
    assert torch.equal(compiled(x, None, Window()), network(x))


def test_a_new_cache_is_empty_storage_in_the_precision_of_the_network(network):
    compiled = CompiledNetwork(network.bfloat16())
    cache, other = compiled.new_cache(3), compiled.new_cache(3)
    for layer in range(2):
        for store in cache.held(layer):
            assert store.shape == (3, 2, LENGTH, 8)
            assert store.dtype == torch.bfloat16
            assert not store.any()
        assert cache.held(layer)[0] is not other.held(layer)[0]


# --- Where CUDA graphs read and write: the storage is the same on a CPU --------------------------


def addresses(cache: KVCache) -> list[int]:
    """Of all storage."""
    return [store.data_ptr() for store in (*cache.keys, *cache.values)]


def test_a_cache_that_graphs_were_made_for_is_emptied(network):
    memory = GraphMemory()
    kept = memory.new_cache("kind", 3, lambda rows: stored(network, rows))
    for store in (*kept.keys, *kept.values):
        store.fill_(torch.nan)  # what an example that overflowed leaves behind
    cache = memory.new_cache("kind", 3, lambda rows: stored(network, rows))
    assert addresses(cache) == addresses(kept)
    x = torch.randn(3, 1, 3).double()
    assert network(x, None, at([0], 1, cache)).isfinite().all()


def test_batches_of_other_sizes_share_the_storage_of_the_largest(network):
    memory, made = GraphMemory(), []

    def new_cache(rows: int) -> KVCache:
        return memory.new_cache(
            "kind", rows, lambda rows: made.append(rows) or stored(network, rows)
        )

    four, two = new_cache(4), new_cache(2)
    assert addresses(two) == addresses(four)
    assert [len(store) for store in two.keys] == [2, 2]
    assert new_cache(4) is four
    assert made == [4]
    five = new_cache(5)
    assert addresses(new_cache(4)) == addresses(five)
    assert made == [4, 5]


def test_kinds_of_networks_have_storage_of_their_own(network):
    memory = GraphMemory()
    caches = [memory.new_cache(kind, 2, lambda rows: stored(network, rows)) for kind in "ab"]
    assert not set(addresses(caches[0])) & set(addresses(caches[1]))
    assert memory.new_cache("a", 2, lambda rows: stored(network, rows)) is caches[0]


def test_storage_is_freed_before_more_is_taken(network):
    memory, left = GraphMemory(), []
    first = weakref.ref(memory.new_cache("kind", 2, lambda rows: stored(network, rows)).keys[0])

    def make(rows: int) -> KVCache:
        left.append(first())
        return stored(network, rows)

    memory.new_cache("kind", 3, make)
    assert left == [None]


@pytest.mark.parametrize("kind", [CacheMemory, GraphMemory])
def test_storage_is_let_go_where_memory_runs_out(network, kind):
    memory = kind()
    kept = weakref.ref(memory.new_cache("kind", 4, lambda rows: stored(network, rows)))
    failures = iter([True])

    def compute(rows: slice) -> torch.Tensor:
        if next(failures, False):
            raise torch.OutOfMemoryError("as told")
        assert kept() is None
        return torch.arange(rows.start, rows.stop)

    with pytest.warns(RuntimeWarning, match="memory ran out"):
        assert ChunkSize().map(compute, 4).tolist() == [0, 1, 2, 3]
