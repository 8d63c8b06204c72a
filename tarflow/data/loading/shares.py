"""How a batch is divided between processes, and between the steps that accumulate gradients."""

from dataclasses import dataclass

from tarflow.errors import DataError
from tarflow.randomness import Share, stream_seed


@dataclass(frozen=True)
class BatchShares:
    """The rows of each batch that one process reads, in one or several parts.

    Attributes:
        batch_size: Number of rows of a batch, over all processes.
        rank: Which of the processes this is.
        world_size: Number of processes.
        parts: Number of parts that a process reads its rows in; gradients are summed over them.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    parts: int = 1

    @classmethod
    def divide(
        cls, batch_size: int, device_batch_size: int | None, rank: int, world_size: int
    ) -> "BatchShares":
        """Divide a batch evenly, into parts of `device_batch_size` rows; None: one part.

        Raises:
            DataError: The rows cannot be divided evenly.
        """
        own, rest = divmod(batch_size, world_size)
        if rest:
            raise DataError(
                f"batch_size {batch_size} cannot be divided evenly between {world_size} processes:"
                f" choose a multiple of {world_size}"
            )
        size = own if device_batch_size is None else device_batch_size
        if size < 1 or own % size:
            divisors = [str(d) for d in range(1, own + 1) if own % d == 0]
            raise DataError(
                f"device_batch_size {size} does not divide the {own} images that each of"
                f" {world_size} processes takes of batch_size {batch_size}: choose one of"
                f" {', '.join(divisors)}, or leave it out"
            )
        return cls(batch_size, rank, world_size, own // size)

    @property
    def rows(self) -> int:
        """Number of rows that are read at once."""
        return self.batch_size // (self.world_size * self.parts)

    def locate(self, number: int) -> tuple[int, int]:
        """Which batch a part belongs to, and its first row there."""
        batch, part = divmod(number, self.parts)
        return batch, (part * self.world_size + self.rank) * self.rows

    def source(self, seed: int, number: int) -> Share:
        """Which of the draws of a batch, of a run's seed, are those of the rows of a part."""
        batch, start = self.locate(number)
        return Share(stream_seed(seed, "batch", batch), start, self.batch_size)
