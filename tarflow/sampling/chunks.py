"""Batches cut into chunks that fit memory."""

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from tarflow.arguments import check_integer
from tarflow.errors import TarflowError
from tarflow.nn.cache_memory import release_caches

SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says where memory runs out on a device without an error of its own for that."""


class InsufficientMemoryError(TarflowError):
    """Memory runs out even with one example at a time."""


class ChunkSize:
    """How many examples are computed at a time; lowered for good where memory runs out.

    Use one for each kind of computation and keep it, so that a long run finds its size once. It
    begins with a limit, of one or more; None stands for a whole batch.
    """

    def __init__(self, limit: int | None = None):
        self.limit = None if limit is None else check_integer("max_batch", limit, least=1)
        self._told = limit

    @classmethod
    def of(cls, value: "ChunkSize | int | None") -> "ChunkSize":
        """Read what a caller passed as `max_batch`: a limit, or what an earlier call found."""
        return value if isinstance(value, ChunkSize) else cls(value)

    def map(self, compute: Callable[[slice], Tensor], num_rows: int) -> Tensor:
        """Compute the rows of a batch in chunks and join them.

        Where memory runs out, the size is halved; chunks that are finished are kept.

        Args:
            compute: Computes some rows; what it returns for a row must not depend on the others.
            num_rows: Number of rows.

        Raises:
            InsufficientMemoryError: Memory runs out with one row.
        """
        parts, done = [], 0
        while done < num_rows or not parts:
            rows = slice(done, min(done + (self.limit or num_rows), num_rows))
            part = self._attempt(compute, rows)
            if part is not None:
                self._tell()
                parts.append(part)
                done = rows.stop
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attempt(self, compute: Callable[[slice], Tensor], rows: slice) -> Tensor | None:
        """Compute some rows, or find that they are too many."""
        try:
            return compute(rows)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not ran_out_of_memory(error):
                raise
            if rows.stop - rows.start <= 1:
                raise InsufficientMemoryError(
                    f"memory runs out with one example at a time ({str(error).splitlines()[0]}):"
                    " compute in a lower precision (dtype=bfloat16), end other programs on the"
                    " device, or choose a device with more memory"
                ) from error
        # Only here is the error gone, and with it the frames that held what filled the memory.
        release_caches()
        gc.collect()
        torch.cuda.empty_cache()
        self.limit = (rows.stop - rows.start) // 2
        return None

    def _tell(self) -> None:
        """Say once which size was found."""
        if self.limit != self._told:
            self._told = self.limit
            warnings.warn(
                f"memory ran out: going on with {self.limit} examples at a time, which changes"
                f" nothing but the time. A batch size of {self.limit} begins with that",
                RuntimeWarning,
                stacklevel=5,  # where `denoise` or `sample_batches` was called
            )


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device has too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)
