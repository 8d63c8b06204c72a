"""Which examples each batch holds: a function of the seed and of the batch's number."""

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Sampler

from tarflow.data.loading.batches import PADDING, Draw
from tarflow.data.loading.shares import BatchShares
from tarflow.randomness import stream_seed


class Batches(Sampler[list[Draw]]):
    """Batches of examples in an order drawn anew in each epoch; batch n is always the same.

    So a run that begins at any batch sees what one sees that came there from the start, with any
    number of workers, and processes that share the batches see together what one sees alone.

    Args:
        num_examples: Number of examples.
        batch_size: Number of examples in a batch, over all processes.
        seed: What the order follows from.
        drop_last: Whether to leave out the last batch of an epoch if it is not full.

    Attributes:
        shares: The part of every batch that this process reads; set before the first iteration.
        first: Number of the part that the next iteration begins with, up to the epoch's end.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, drop_last: bool):
        self.num_examples = num_examples
        self.seed = seed
        self.drop_last = drop_last
        self.shares = BatchShares(batch_size)
        self.first = 0
        self.epoch = 0

    def __len__(self) -> int:
        """Number of parts of batches in an epoch."""
        full, rest = divmod(self.num_examples, self.shares.batch_size)
        return (full if self.drop_last or not rest else full + 1) * self.shares.parts

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of the epoch of `first`; the next iteration is that of the epoch after."""
        # Nothing moves before the first batch is asked for: loaders make iterators in vain.
        first, self.epoch = self.first, self.first // len(self)
        self.first = (self.epoch + 1) * len(self)
        order = self._order(self.epoch)  # once: of ten million examples it takes 255 ms
        for number in range(first, self.first):
            yield self._part(number, order)

    def _order(self, epoch: int) -> Int64[Tensor, " num"]:
        """The order of the examples in an epoch."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        return torch.randperm(self.num_examples, generator=generator)

    def _part(self, number: int, order: Int64[Tensor, " num"]) -> list[Draw]:
        """The examples of a part."""
        batch, row = self.shares.locate(number % len(self))
        begin = batch * self.shares.batch_size + row
        origin = self.shares.locate(number)[0] * self.shares.batch_size + row
        return [
            (index, stream_seed(self.seed, "reading", origin + offset))
            for offset, index in enumerate(order[begin : begin + self.shares.rows].tolist())
        ]


class EvaluationBatches(Sampler[list[int]]):
    """All examples in their order, once, each batch shared out between the processes.

    Every process reads equally many, as those that share a model have to; `PADDING` fills up.
    Batch sizes count the examples of all processes.
    """

    def __init__(self, num_examples: int, batch_size: int, rank: int = 0, world_size: int = 1):
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Number of batches."""
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for begin in range(0, self.num_examples, self.batch_size):
            end = min(begin + self.batch_size, self.num_examples)
            own = list(range(begin + self.rank, end, self.world_size))
            rows = -(-(end - begin) // self.world_size)
            yield own + [PADDING] * (rows - len(own))
