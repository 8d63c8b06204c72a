"""Batches that are read ahead are those that are asked for."""

import os

import pytest
import torch
from torch.utils.data import Dataset

from tarflow.data.loading.batches import read_batch
from tarflow.data.loading.reading import ReadAhead
from tarflow.errors import DataError


class Processes(Dataset):
    """Tells of every example who read it."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.tensor([index, os.getpid()]), {"label": index % 3}


ASKED = {
    "in order": [range(0, 16), range(16, 32), range(32, 48), range(48, 50)],
    "one process of three": [range(4, 8), range(16, 20), range(28, 32), range(40, 44)],
    "with gaps, shorter ones and again": [range(0, 8), range(30, 33), range(8, 16), range(8, 16)],
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_read_is_what_was_asked_for(asked, num_workers):
    state = torch.get_rng_state()
    read = ReadAhead(Processes(), num_workers)
    readers = set()
    for indices in asked:
        batch, expected = read(indices), read_batch(Processes(), indices)
        assert torch.equal(batch.x[:, 0], expected.x[:, 0])
        assert torch.equal(batch.index, torch.arange(indices.start, indices.stop))
        assert torch.equal(batch.context["label"], expected.context["label"])
        readers |= set(batch.x[:, 1].tolist())
    assert (readers == {os.getpid()}) == (num_workers == 0)
    assert len(readers) > 1 or not num_workers
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_stay_as_long_as_the_order_does():
    read = ReadAhead(Processes(), 1)
    for asked, changes in ((ASKED["in order"], 1), (ASKED["one process of three"][1:], 2)):
        readers = {int(pid) for indices in asked for pid in read(indices).x[:, 1]}
        assert len(readers) == changes


def test_a_number_of_workers_is_not_below_0():
    with pytest.raises(DataError, match="num_workers"):
        ReadAhead(Processes(), -1)
