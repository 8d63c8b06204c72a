"""The order of training images: a function of the seed and of how many batches came before."""

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset, Sampler

from tarflow.randomness import stream_seed

Draw = tuple[int, int]
"""Index of an example, and the seed of what is drawn as it is read."""


class Batches(Sampler[list[Draw]]):
    """Batches of examples in an order drawn anew in each epoch; batch n is always the same.

    So a run that begins at any batch sees what one sees that came there from the start, with any
    number of workers.

    Args:
        num_examples: Number of examples.
        batch_size: Number of examples in a batch.
        seed: What the order follows from.
        drop_last: Whether to leave out the last batch of an epoch if it is not full.

    Attributes:
        rank: Which of the processes that train together this is: each takes a batch of its own.
        world_size: Number of these processes.
        first: Number of the batch that the next iteration begins with; it goes on to the end of
            an epoch.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, drop_last: bool):
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.rank = 0
        self.world_size = 1
        self.first = 0
        self.epoch = 0

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        together = self.batch_size * self.world_size
        if self.drop_last:
            return self.num_examples // together
        return -(-self.num_examples // together)

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of the epoch of `first`; the next iteration is that of the epoch after."""
        # Nothing moves before the first batch is asked for: loaders make iterators in vain.
        first, self.epoch = self.first, self.first // len(self)
        self.first = (self.epoch + 1) * len(self)
        yield from map(self._batch, range(first, self.first))

    def _batch(self, number: int) -> list[Draw]:
        """The examples of a batch."""
        epoch, place = divmod(number, len(self))
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        order = torch.randperm(self.num_examples, generator=generator)
        share = place * self.world_size + self.rank
        indices = order[share * self.batch_size : (share + 1) * self.batch_size].tolist()
        origin = (number * self.world_size + self.rank) * self.batch_size
        return [
            (index, stream_seed(self.seed, "reading", origin + row))
            for row, index in enumerate(indices)
        ]


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
