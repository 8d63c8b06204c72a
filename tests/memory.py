"""A flow whose memory runs out."""

import torch

from tarflow import Flow, StandardNormal


class SmallMemory(StandardNormal):
    """A base that has no memory for more than some rows, and counts what it was asked for.

    Args:
        shape: Number of positions, and size of the vector at each.
        rows: How many rows fit.
        error: What is raised beyond.
    """

    def __init__(self, shape: tuple[int, int], rows: int, error: RuntimeError):
        super().__init__(*shape)
        self.rows, self.error = rows, error
        self.asked: list[int] = []

    def sample(self, num_samples, source=None):
        self._check(num_samples)
        return super().sample(num_samples, source)

    def log_prob(self, z):
        self._check(len(z))
        return super().log_prob(z)

    def _check(self, rows: int) -> None:
        self.asked.append(rows)
        if rows > self.rows:
            raise self.error


def limit_memory(flow: Flow, rows: int, error: RuntimeError | None = None) -> SmallMemory:
    """Let a flow run out of memory with more than some rows; return what counts them."""
    error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    dtype = flow.base.anchor.dtype
    flow.base = SmallMemory(flow.base.shape, rows, error).to(dtype)
    return flow.base
