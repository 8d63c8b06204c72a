"""Flows as distributions of torch."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, ExpTransform

from tarflow import (
    ConfigurationError,
    ContextError,
    Flow,
    Integers,
    Interval,
    StandardNormal,
    VectorConditioner,
)

from .models import tiny_flow, tiny_tokens, tiny_vectors

SHAPES = [(), (4,), (2, 3)]


@pytest.mark.parametrize("batch", SHAPES)
@pytest.mark.parametrize("sample", SHAPES)
def test_shapes_are_those_of_distributions(batch, sample):
    flow = tiny_vectors(2, conditioners=[VectorConditioner(3)])
    distribution = flow.distribution({"vector": torch.randn(*batch, 3)})
    assert distribution.batch_shape == batch
    assert distribution.event_shape == (2,)
    x = distribution.sample(sample)
    assert x.shape == (*sample, *batch, 2)
    assert not x.requires_grad
    assert distribution.log_prob(x).shape == (*sample, *batch)
    assert distribution.log_prob(torch.zeros(2)).shape == batch


def test_each_row_of_a_context_is_a_distribution():
    flow = tiny_vectors(2, conditioners=[VectorConditioner(3)], num_classes=4).double()
    vector = torch.randn(2, 3, 3, dtype=torch.float64)
    label = torch.tensor([0, 3, -1])
    distribution = flow.distribution({"vector": vector, "label": label})
    assert distribution.batch_shape == (2, 3)
    x = torch.randn(5, 2, 3, 2, dtype=torch.float64)
    found = distribution.log_prob(x)
    for i, j, k in ((0, 0, 0), (3, 1, 2), (4, 0, 1)):
        context = {"vector": vector[j, k][None], "label": label[k][None]}
        torch.testing.assert_close(found[i, j, k], flow.log_prob(x[i, j, k][None], context)[0])


def test_no_context_is_one_distribution():
    for flow in (tiny_flow(), tiny_tokens(), tiny_vectors(3)):
        distribution = flow.distribution()
        assert distribution.batch_shape == ()
        x = distribution.sample((3,))
        torch.testing.assert_close(distribution.log_prob(x), flow.log_prob(x))


def test_samples_of_rsample_have_gradients():
    flow = tiny_vectors(2, conditioners=[VectorConditioner(3)])
    vector = torch.randn(3, requires_grad=True)
    distribution = flow.distribution({"vector": vector})
    assert distribution.has_rsample
    x = distribution.rsample((4,))
    (x.square().mean() - distribution.log_prob(x.detach()).mean()).backward()
    assert vector.grad is not None
    assert vector.grad.any()
    assert all(p.grad is not None for n, p in flow.named_parameters() if "null" not in n)


def test_a_distribution_expands():
    flow = tiny_vectors(2, conditioners=[VectorConditioner(3)])
    distribution = flow.distribution({"vector": torch.randn(3, 3)})
    more = distribution.expand((5, 3))
    assert more.batch_shape == (5, 3)
    x = torch.randn(5, 3, 2)
    torch.testing.assert_close(more.log_prob(x), distribution.log_prob(x))
    assert more.expand((2, 5, 3)).sample().shape == (2, 5, 3, 2)


def test_distributions_of_distributions():
    flow = tiny_vectors(2, num_classes=3).double()
    distribution = flow.distribution(torch.tensor([0, 1, 2]))
    x = torch.rand(3, 2, dtype=torch.float64)
    whole = Independent(distribution, 1)
    torch.testing.assert_close(whole.log_prob(x), distribution.log_prob(x).sum())
    moved = TransformedDistribution(distribution, [AffineTransform(1.0, 2.0), ExpTransform()])
    y = 1 + 2 * x
    expected = distribution.log_prob(x) - y.sum(dim=1) - 2 * math.log(2)
    torch.testing.assert_close(moved.log_prob(y.exp()), expected)
    assert (moved.rsample((7,)) > 0).all()


def test_values_outside_have_no_density_or_are_refused():
    flow = tiny_vectors(2, supports=[Interval(0.0, 1.0), Integers(0, 3)])
    distribution = flow.distribution()
    x = torch.tensor([[0.5, 2.0], [1.5, 2.0], [0.5, 0.1]])
    assert distribution.support.check(x).tolist() == [True, False, False]
    assert distribution.log_prob(x).isfinite().tolist() == [True, False, False]
    kind, told = type(distribution), (distribution.context, torch.Size(), torch.Size([2]))
    with pytest.raises(ValueError, match="within the support"):
        kind(flow, *told, validate_args=True).log_prob(x)
    samples = distribution.sample((20,))
    assert distribution.support.check(samples).all()


def test_a_flow_is_fitted_to_a_target_by_reverse_divergence():
    """A check of signs: samples move to where the target is."""
    torch.manual_seed(0)
    flow, target = tiny_vectors(1), Normal(2.0, 0.5)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(60):
        distribution = flow.distribution()
        x = distribution.rsample((64,))
        loss = (distribution.log_prob(x) - target.log_prob(x)[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(flow.sample(2000).mean()) == pytest.approx(2.0, abs=0.15)


def test_what_has_no_shape_has_no_distribution():
    flow = Flow([], StandardNormal(2, 1))
    with pytest.raises(ConfigurationError, match="does not tell the shape"):
        flow.distribution()
    with pytest.raises(ContextError, match="unknown"):
        tiny_vectors(2).distribution({"vector": torch.zeros(3)})


def test_a_context_that_is_none_is_refused():
    flow = tiny_vectors(2, conditioners=[VectorConditioner(3)], num_classes=2)
    vector, label = torch.zeros(4, 3), torch.zeros(5, dtype=torch.long)
    with pytest.raises(ContextError, match="do not fit together"):
        flow.distribution({"vector": vector, "label": label})
    for wrong in ("much", 1.0, [1.0, 2.0]):
        with pytest.raises(ContextError, match="vector"):
            flow.distribution({"vector": wrong})
