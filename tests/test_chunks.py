"""Chunks that fit memory are found, and nothing is lost on the way."""

import gc
import weakref

import pytest
import torch

from tarflow import ConfigurationError, TarflowError
from tarflow.sampling.chunks import ChunkSize, InsufficientMemoryError, ran_out_of_memory

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")


class Memory:
    """Squares rows, where no more than some are asked for at a time."""

    def __init__(self, rows, error=FULL):
        self.rows, self.error, self.asked = rows, error, []

    def __call__(self, rows):
        self.asked.append((rows.start, rows.stop))
        if rows.stop - rows.start > self.rows:
            raise self.error
        return torch.arange(rows.start, rows.stop) ** 2


def test_a_batch_that_fits_is_computed_whole():
    memory = Memory(10)
    assert torch.equal(ChunkSize().map(memory, 10), torch.arange(10) ** 2)
    assert memory.asked == [(0, 10)]


def test_a_limit_is_kept():
    memory = Memory(10)
    assert torch.equal(ChunkSize(4).map(memory, 10), torch.arange(10) ** 2)
    assert memory.asked == [(0, 4), (4, 8), (8, 10)]


def test_a_size_that_fits_is_found_once_and_told_once():
    chunks, memory = ChunkSize(), Memory(3)
    with pytest.warns(RuntimeWarning, match="going on with 2 examples at a time") as caught:
        x = chunks.map(memory, 10)
    assert len(caught) == 1
    assert torch.equal(x, torch.arange(10) ** 2)
    assert memory.asked[:4] == [(0, 10), (0, 5), (0, 2), (2, 4)]
    memory.asked.clear()
    assert torch.equal(chunks.map(memory, 5), torch.arange(5) ** 2)
    assert memory.asked == [(0, 2), (2, 4), (4, 5)]
    assert chunks.limit == 2


def test_finished_chunks_are_kept_when_memory_runs_out_later():
    memory = Memory(4)
    chunks = ChunkSize(4)

    def compute(rows):
        if rows.start == 8:
            memory.rows = 2  # another program took the rest
        return memory(rows)

    with pytest.warns(RuntimeWarning, match="going on with 2"):
        assert torch.equal(chunks.map(compute, 12), torch.arange(12) ** 2)
    assert memory.asked == [(0, 4), (4, 8), (8, 12), (8, 10), (10, 12)]


@pytest.mark.parametrize("size", [1, 5])
def test_memory_for_not_even_one(size):
    with pytest.raises(InsufficientMemoryError, match=r"one example at a time .*9 GiB.*dtype"):
        ChunkSize().map(Memory(0), size)
    assert issubclass(InsufficientMemoryError, TarflowError)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"):
        ChunkSize().map(Memory(3, RuntimeError("shapes do not fit")), 10)


def test_the_real_error_of_the_cpu_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out_of_memory(caught.value)
    assert not ran_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_what_a_failed_attempt_held_is_freed_before_the_next():
    held, alive = [], []

    def compute(rows):
        alive.append(sum(reference() is not None for reference in held))
        tensor = torch.zeros(len(range(10)[rows]))
        held.append(weakref.ref(tensor))
        if len(tensor) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return tensor + 1

    gc.disable()  # so that nothing is freed by chance
    try:
        with pytest.warns(RuntimeWarning):
            ChunkSize().map(compute, 10)
    finally:
        gc.enable()
    assert set(alive) == {0}


def test_an_empty_batch_has_a_result():
    assert ChunkSize(3).map(Memory(3), 0).shape == (0,)


def test_what_a_caller_passes_is_read():
    chunks = ChunkSize(7)
    assert ChunkSize.of(chunks) is chunks
    assert ChunkSize.of(3).limit == 3
    assert ChunkSize.of(None).limit is None
    with pytest.raises(ConfigurationError, match="max_batch 0 must be at least 1"):
        ChunkSize.of(0)
