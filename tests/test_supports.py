"""Supports: exact densities within, zero outside, and samples that never leave them."""

import math

import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

import tarflow
from tarflow import (
    Circle,
    ConfigurationError,
    HalfLine,
    Integers,
    Interval,
    Real,
    Simplex,
    Support,
    TarFlow,
    Whitening,
)
from tarflow.flows.standardization import Decorrelation, shrinkage

from .models import TINY, tiny_tokens, tiny_vectors

INSIDE: dict[str, tuple[Support, list[float], list[float]]] = {
    "Real": (Real(), [-1e3, 0.0, 2.5], [math.nan, math.inf]),
    "Interval": (Interval(-2.0, 3.0), [-1.9, 0.0, 2.9], [-2.1, 3.5, math.nan]),
    "HalfLine": (HalfLine(1.0), [1.1, 2.0, 1e3], [1.0, 0.5, -3.0, math.inf]),
    "Circle": (Circle(0.0, 1.0), [0.0, 0.3, 0.99], [1.0, -0.1, math.nan]),
    "Integers": (Integers(), [0.0, 1.0, 7.0], [-1.0, 0.5, math.inf]),
    "some Integers": (Integers(-1, 2), [-1.0, 0.0, 2.0], [-2.0, 3.0, 0.1]),
    "Integers below": (Integers(None, 3), [3.0, -7.0], [4.0, 0.1]),
    "all Integers": (Integers(None), [-4.0, 0.0], [0.1]),
}
BIJECTIONS = [Real(), Interval(-2.0, 3.0), HalfLine(1.0), Simplex(3), Simplex(2)]
MIXED = [Interval(0.0, 1.0), Interval(0.0, 1.0), HalfLine(), Simplex(3), Real()]


def inside(support: Support, *shape: int) -> Tensor:
    """Points within a support's constraint."""
    return support.to_points(torch.randn(*shape, support.num_inner, dtype=torch.float64))


@pytest.mark.parametrize("name", INSIDE)
def test_values_lie_inside_or_not(name):
    support, within, without = INSIDE[name]
    for values, expected in ((within, True), (without, False)):
        x = torch.tensor(values)[:, None]
        assert support.holds(x).tolist() == [expected] * len(values)


@pytest.mark.parametrize("support", BIJECTIONS, ids=repr)
def test_a_bijection_has_the_log_determinant_of_its_jacobian(support):
    x = inside(support, 4)
    inner, log_det = support.to_inner(x)
    torch.testing.assert_close(support.to_points(inner), x)
    for row in range(4):
        jacobian = torch.autograd.functional.jacobian(support.to_points, inner[row])
        square = jacobian[: support.num_inner]  # of a simplex all shares but the last
        expected = -torch.linalg.slogdet(square).logabsdet
        torch.testing.assert_close(log_det[row], expected)


@pytest.mark.parametrize(
    ("support", "points"),
    [
        (Interval(-2.0, 3.0), torch.linspace(-2, 3, 4002)[1:-1]),
        (HalfLine(1.0), 1 + torch.linspace(-14, 14, 8001).exp()),
        (Circle(0.0, 2.0), torch.linspace(0, 2, 4001)[:-1]),
    ],
    ids=["Interval", "HalfLine", "Circle"],
)
def test_a_density_integrates_to_one(support, points):
    flow = tiny_vectors(1, supports=support).double()
    x = points.double()[:, None]
    with torch.no_grad():
        density = flow.log_prob(x).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=2e-3)


def test_a_circle_is_one_line_wrapped():
    flow = tiny_vectors(2, supports=[Circle(0.0, 1.0, num_turns=8), Real()]).double()
    line = tiny_vectors(2).double()
    line.load_state_dict(flow.state_dict())
    x = torch.rand(4, 2, dtype=torch.float64)
    turned = [line.log_prob(x + torch.tensor([turn, 0.0])) for turn in range(-8, 9)]
    torch.testing.assert_close(flow.log_prob(x), torch.stack(turned).logsumexp(dim=0))
    edge = torch.tensor([[0.0, 0.2], [1 - 1e-9, 0.2]], dtype=torch.float64)
    first, last = flow.log_prob(edge).detach()
    assert float(first) == pytest.approx(float(last), abs=1e-6)


@pytest.mark.parametrize("support", [Integers(-1, 2), Integers(None), Integers(0)], ids=repr)
def test_probabilities_of_integers_sum_to_one(support):
    flow = tiny_vectors(1, supports=support).double()
    low = -60 if support.low is None else support.low
    high = 400 if support.high is None else support.high
    x = torch.arange(low, high + 1, dtype=torch.float64)[:, None]
    with torch.no_grad():
        # by the points of each cell: below 1 the logarithm is steep
        assert float(flow.log_prob(x).exp().sum()) == pytest.approx(1, abs=2e-2)


def test_the_bound_of_integers_is_one_on_average():
    flow = tiny_vectors(2, supports=[Integers(0, 3), Real()]).double()
    x = torch.tensor([[1.0, 0.3]], dtype=torch.float64).expand(4000, -1)
    with torch.no_grad():
        draws = flow.log_prob_bound(x, source=torch.Generator().manual_seed(0))
        exact = flow.log_prob(x[:1])
    assert float(draws.exp().mean()) == pytest.approx(float(exact.exp()), rel=0.03)
    assert draws.mean() < exact


def test_supports_of_several_columns():
    flow = tiny_vectors(7, supports=MIXED, token_dim=2).double()
    x = torch.cat([inside(support, 3) for support in MIXED], dim=1)
    z, log_det = flow(x)
    assert z.shape == (3, 3, 2)
    for row in range(3):

        def free(u: Tensor) -> Tensor:  # the last share follows from the others
            shares = torch.cat([u[3:5], 1 - u[3:5].sum(dim=0, keepdim=True)])
            return flow(torch.cat([u[:3], shares, u[5:]])[None])[0][0].flatten()

        u = torch.cat([x[row, :5], x[row, 6:]])
        jacobian = torch.autograd.functional.jacobian(free, u)
        torch.testing.assert_close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(flow.inverse(z), x)


SUPPORTS = {
    "vectors": [*MIXED, Circle(), Integers(0, 5), Integers(None)],
    "wide": [Interval(1e4, 1e4 + 1e-1), HalfLine(-1e3), Circle(100.0, 1e-3), Integers(-3, -2)],
}


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_lie_in_the_support(name, dtype):
    supports = SUPPORTS[name]
    dim = sum(each.size for each in supports)
    flow = TarFlow.for_vectors(dim, supports=supports, **TINY).to(dtype)
    torch.manual_seed(0)
    flow.base.scaled = lambda unit: 20 * unit  # far beyond what a normal gives
    with torch.no_grad():
        x = flow.sample(500)
    assert x.dtype == dtype
    assert flow.holds(x).all()
    assert flow.log_prob(x).isfinite().all()


def test_what_lies_outside_has_no_density_and_harms_nothing_else():
    flow = tiny_vectors(3, supports=[Interval(0.0, 1.0), HalfLine(), Real()])
    x = torch.tensor([[0.5, 1.0, 0.0]] * 4, requires_grad=True)
    wrong = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, -2.0, 0], [0, 0, math.nan]])
    log_prob = flow.log_prob(x + wrong)
    assert log_prob[0].isfinite()
    assert log_prob[1:].tolist() == [-math.inf] * 3
    log_prob[0].backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())


def test_integers_of_tokens_and_masks():
    flow = tiny_tokens(3, 2, supports=[Integers(0, 9), Interval(0.0, 1.0)]).double()
    mask = torch.tensor([[True, True, False]])
    x = torch.tensor([[[3.0, 0.5], [9.0, 0.1], [0.0, 0.0]]], dtype=torch.float64)
    expected = flow.log_prob(x, {"mask": mask})
    assert expected.isfinite().all()
    x[0, 2] = torch.tensor([-7.5, math.nan])
    torch.testing.assert_close(flow.log_prob(x, {"mask": mask}), expected)
    x[0, 1, 0] = 10
    assert flow.log_prob(x, {"mask": mask}).tolist() == [-math.inf]
    context = {"mask": mask.expand(50, -1)}
    samples = flow.sample(50, context)
    assert flow.holds(samples, flow.read_context(context, samples)).all()


def test_standardization_is_of_training_data_and_part_of_the_density(tmp_path):
    flow = tiny_vectors(2, supports=[HalfLine(), Real()]).double()
    x = torch.randn(500, 2, dtype=torch.float64) * torch.tensor([3.0, 0.1]).double()
    x = torch.stack([x[:, 0].exp(), x[:, 1] - 50], dim=1)
    before = flow.log_prob(x)
    flow.standardize(x)
    inner, _ = flow.supported(x, tarflow.Context())
    standard = flow.transform[1](inner, tarflow.Context())[0]
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard.std(dim=0), torch.ones(2).double(), atol=1e-2, rtol=0)
    assert flow.log_prob(x).mean() > before.mean()
    z, log_det = flow(x[:3])
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0].sum(dim=0), x[:3])
    matrices = jacobian.reshape(2, 3, 2).transpose(0, 1)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrices).logabsdet)
    torch.testing.assert_close(flow.inverse(z), x[:3])
    flow.save_pretrained(tmp_path)
    assert torch.equal(tarflow.load(tmp_path).log_prob(x), flow.log_prob(x))


def correlated(num_rows: int, size: int = 6, noise: float = 0.05) -> torch.Tensor:
    """Rows of zero mean and unit variance that follow from each other, all but for some noise."""
    x = torch.randn(num_rows, 2, dtype=torch.float64) @ torch.randn(2, size, dtype=torch.float64)
    x = x + noise * torch.randn_like(x)
    return (x - x.mean(dim=0)) / x.std(dim=0, correction=0)


@pytest.mark.parametrize("num_rows", [5, 50, 5000])
def test_correlations_are_shrunk_as_scikit_learn_does(num_rows):
    x, transform = correlated(num_rows), Decorrelation(6).double()
    transform.fit(x)
    expected, share = ledoit_wolf(x.numpy(), assume_centered=True)
    found = transform.factor @ transform.factor.T
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-8, atol=1e-8)
    assert 0 < share < 1
    assert float(shrinkage(x, x.T @ x / num_rows)) == pytest.approx(share)


def test_a_flow_begins_as_the_normal_density_of_its_training_data():
    x = 3 + 2 * correlated(5000, noise=0.5)
    sizes = {"num_transforms": 1, "num_layers": 1, "model_dim": 16, "head_dim": 8}
    flow = tarflow.TarFlow.for_vectors(6, normalization=Whitening(), **sizes)
    flow.double().standardize(x)
    exact = torch.distributions.MultivariateNormal(x.mean(dim=0), x.T.cov(correction=0))
    torch.testing.assert_close(flow.log_prob(x[:9]), exact.log_prob(x[:9]), rtol=0, atol=0.1)
    flow.standardize(x[:, :1].expand(-1, 6) + 1e-9 * x)  # all but the same
    assert flow.log_prob(x).isfinite().all()


def test_one_column_and_uncorrelated_ones_are_left_alone():
    transform = Decorrelation(1)
    transform.fit(torch.tensor([[1.0], [-1.0]]))
    assert transform.factor.tolist() == [[1.0]]
    transform = Decorrelation(2)
    transform.fit(torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]))
    assert torch.equal(transform.factor, torch.eye(2))


REFUSED = {
    "a constant": (torch.tensor([[1.0, 2.0], [1.0, 3.0]]), "column 0 is constant, 1"),
    "what is not finite": (torch.tensor([[1.0, 2.0], [2.0, math.nan]]), "column 1 holds values"),
    "outside": (torch.tensor([[1.0, 2.0], [2.0, -1.0]]), r"column 1 .* support, HalfLine"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_standardized_is_refused_by_its_column(name):
    x, message = REFUSED[name]
    with pytest.raises(ConfigurationError, match=message):
        tiny_vectors(2, supports=[Real(), HalfLine()]).standardize(x)


WRONG = {
    "columns": (lambda: tiny_vectors(3, supports=[Real(), Real()]), "there are 3"),
    "simplex": (lambda: tiny_vectors(3, supports=Simplex(2)), "there are 3"),
    "interval": (lambda: Interval(1.0, 1.0), "from 1.0 to 1.0 is none"),
    "half-line": (lambda: HalfLine(math.inf), "must be finite"),
    "circle": (lambda: Circle(0.0, 0.0), "period positive"),
    "integers": (lambda: Integers(3, 3), "less than two"),
    "turns": (lambda: tiny_vectors(9, supports=Circle()), "let num_turns be lower"),
    "token_dim": (lambda: tiny_vectors(3, token_dim=2), "does not divide 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(name):
    make, message = WRONG[name]
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_support_for_all_columns():
    assert tiny_vectors(4, supports=Simplex(2)).supported.num_inner == 2
    assert tiny_vectors(3, supports=Interval()).supported.num_inner == 3
