"""Embeddings of labels."""

import torch

from tarflow.nn.embedding import LabelEmbedding

from ..models import randomized


def test_a_label_has_its_own_vector_and_no_label_the_mean():
    embedding = randomized(LabelEmbedding(3, 4))
    embedded = embedding(torch.tensor([2, -1, 0]))
    assert torch.equal(embedded[0], embedding.weight[2])
    assert torch.equal(embedded[2], embedding.weight[0])
    torch.testing.assert_close(embedded[1], sum(embedding.weight) / 3)


def test_no_label_trains_every_vector_alike():
    embedding = LabelEmbedding(3, 4)
    embedding(torch.tensor([-1])).sum().backward()
    torch.testing.assert_close(embedding.weight.grad, torch.full((3, 4), 1 / 3))
