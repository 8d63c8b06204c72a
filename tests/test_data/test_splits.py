"""Parts of large data sets take little room and little time."""

import pickle

import numpy as np
import torch

from tarflow.data import ArrayDataset
from tarflow.data.loading.splits import complete_parts


def test_an_index_takes_eight_bytes():
    count = 100_000
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, -1, -1, -1)
    part = ArrayDataset(images, torch.zeros(count, dtype=torch.int64))
    made = complete_parts({"train": part}, part.labels.numpy(), 0.1, 0.1)
    indices = {name: each.indices for name, each in made.items()}
    assert {name: len(each) for name, each in indices.items()} == {
        "train": 81_000,
        "test": 10_000,
        "val": 9_000,
    }
    assert sorted(np.concatenate([np.asarray(each) for each in indices.values()])) == [
        *range(count)
    ]
    assert sum(len(pickle.dumps(each)) for each in indices.values()) < 8 * count + 1000
    assert type(indices["train"][5]) is int
