"""Which examples each batch holds: a function of the seed and of the batch's number."""

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset, Sampler

from tarflow.data.loading.shares import BatchShares
from tarflow.randomness import stream_seed

Draw = tuple[int, int]
"""Index of an example, and the seed of what is drawn as it is read."""

PADDING = -1
"""Stands for the index of an example that is there to fill a batch up, and does not count."""


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
        first: Number of the part that the next iteration begins with; it goes on to the end of
            an epoch.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, drop_last: bool):
        self.num_examples = num_examples
        self.seed = seed
        self.drop_last = drop_last
        self.shares = BatchShares(batch_size)
        self.first = 0
        self.epoch = 0

    def __len__(self) -> int:
        """Number of parts that this process reads in an epoch."""
        full, rest = divmod(self.num_examples, self.shares.batch_size)
        return (full if self.drop_last or not rest else full + 1) * self.shares.parts

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of the epoch of `first`; the next iteration is that of the epoch after."""
        # Nothing moves before the first batch is asked for: loaders make iterators in vain.
        first, self.epoch = self.first, self.first // len(self)
        self.first = (self.epoch + 1) * len(self)
        yield from map(self._part, range(first, self.first))

    def _part(self, number: int) -> list[Draw]:
        """The examples of a part."""
        epoch, place = divmod(number, len(self))
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        order = torch.randperm(self.num_examples, generator=generator)
        batch, row = self.shares.locate(place)
        begin = batch * self.shares.batch_size + row
        origin = self.shares.locate(number)[0] * self.shares.batch_size + row
        return [
            (index, stream_seed(self.seed, "reading", origin + offset))
            for offset, index in enumerate(order[begin : begin + self.shares.rows].tolist())
        ]


class EvaluationBatches(Sampler[list[int]]):
    """All examples in their order, once, each batch shared out between the processes.

    Every process reads equally many, as those that share a model have to; `PADDING` fills up.

    Args:
        num_examples: Number of examples.
        batch_size: Number of examples in a batch, over all processes.
        rank: Which of the processes this is.
        world_size: Number of processes.
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


class Drawn(Dataset):
    """Examples as a training run reads them: what is drawn on the way follows from a seed.

    Args:
        dataset: The examples; they may draw from torch's global generator.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, draw: Draw):
        index, seed = draw
        torch.default_generator.manual_seed(seed)
        return self.dataset[index]


class Numbered(Dataset):
    """Examples with their indices; the first example stands where there is padding.

    Args:
        dataset: The examples.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int):
        return (*self.dataset[max(index, 0)], index)
