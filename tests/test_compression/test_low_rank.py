"""Truncated singular value decompositions of MLPs, against numpy's."""

import math

import numpy as np
import pytest
import torch

from tarflow import CheckpointError, PreNorm, SwiGLU
from tarflow.compression.low_rank import low_rank
from tests.models import tiny_flow


@pytest.mark.parametrize("options", [{}, {"layer": PreNorm(mlp=SwiGLU())}], ids=["GELU", "SwiGLU"])
def test_matrices_are_truncated_at_one_threshold_and_only_where_that_saves(options):
    flow = tiny_flow(num_classes=3, **options)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    found, ranks = low_rank(flow, 1.2), []
    for name, layer in flow.named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        small = found.get_submodule(name)
        u, values, v = np.linalg.svd(layer.weight.detach().numpy(), full_matrices=False)
        rank = max(1, (values > 1.2).sum())
        if ".mlp." not in name or rank * (len(u) + v.shape[1]) >= layer.weight.numel():
            assert torch.equal(small.weight, layer.weight)
            continue
        ranks.append(rank)
        inner, outer = (each.weight.detach().numpy() for each in small)
        truncated = (u[:, :rank] * values[:rank]) @ v[:rank]
        np.testing.assert_allclose(outer @ inner, truncated, atol=1e-6)
        assert inner.shape[0] == rank
        assert torch.equal(small[1].bias, layer.bias)
    assert len(set(ranks)) > 1
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_nothing_is_dropped_below_all_singular_values():
    flow, x = tiny_flow().eval(), torch.randn(3, 2, 4, 4)
    assert torch.equal(low_rank(flow, 0.0).log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize("threshold", [1.2, math.inf])
def test_what_is_left_is_a_flow_with_an_exact_inverse_and_density(threshold):
    flow = low_rank(tiny_flow(num_classes=3), threshold).eval()
    z, label = torch.randn(2, 4, 8), torch.tensor([0, -1])
    x = flow.inverse(z, label)
    torch.testing.assert_close(flow(x, label)[0], z, atol=1e-4, rtol=1e-4)
    flow, x = flow.double(), x[:1].double()
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, label[:1])[0], x)
    log_det = torch.linalg.slogdet(jacobian.reshape(32, 32)).logabsdet
    torch.testing.assert_close(flow(x, label[:1])[1], log_det[None])


def test_it_is_not_saved_as_what_it_is_not(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be saved"):
        low_rank(tiny_flow(), 1.2).save_pretrained(tmp_path)
