"""Shapes of particles: the same normalizer, and the same density as positions."""

import math

import pytest
import torch

from tarflow import ConfigurationError
from tarflow.estimation.particle_shapes import ParticleShapes
from tarflow.estimation.particles import DoubleWell, LennardJones

SPRINGS = {"depth": 0.0, "spring": 2.0}
SHAPES = [
    ParticleShapes(DoubleWell(), sharpness=0.0),
    ParticleShapes(DoubleWell(), sharpness=0.5),
    ParticleShapes(LennardJones(5)),
]


def vectors(shapes: ParticleShapes, num: int) -> torch.Tensor:
    """Vectors of the system, normal with variance 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, shapes.system.dim, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shapes", SHAPES, ids=repr)
def test_a_shape_has_the_distances_of_its_particles(shapes):
    x = vectors(shapes, 20)
    drawn = shapes.drawn(x, torch.Generator().manual_seed(1))
    assert drawn.shape == (20, shapes.dim) == (20, len(shapes.supports))
    expected = shapes.system.distances(x).sort(dim=1).values
    torch.testing.assert_close(shapes.distances(drawn).sort(dim=1).values, expected)
    positive = [support.low == 0 for support in shapes.supports if hasattr(support, "low")]
    assert len(positive) == shapes.system.space_dim - 1
    assert (drawn[:, 0] > 0).all()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("sharpness", [0.0, 0.7, 3.0])
def test_the_normalizer_is_that_of_the_system(size, sharpness):
    r"""For springs alone Z is known: $(2 \pi / k)^{dim / 2}$; by draws of the entries of L."""
    system = LennardJones(4, size, **SPRINGS)
    shapes = ParticleShapes(system, sharpness=sharpness)
    draws = torch.randn(
        200_000, shapes.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    log_prob = -draws.square().sum(dim=1) / 2 - shapes.dim / 2 * math.log(2 * math.pi)
    rows, columns = torch.tril_indices(3, size).tolist()
    for number, (row, column) in enumerate(zip(rows, columns, strict=True)):
        if row == column < size - 1:  # a half normal density
            draws[:, number].abs_()
            log_prob = log_prob + math.log(2)
    log_weight = -shapes.energy(draws) - log_prob
    found = float(log_weight.logsumexp(dim=0)) - math.log(len(draws))
    assert found == pytest.approx(system.dim / 2 * math.log(math.pi), abs=0.03)


@pytest.mark.parametrize(("num", "size"), [(3, 2), (4, 2), (5, 3)])
def test_drawn_shapes_have_the_density_that_their_energy_tells(num, size):
    """Of normal positions: the mean of every number, by draws and by weights."""
    system = LennardJones(num, size, **{**SPRINGS, "spring": 1.0})
    shapes = ParticleShapes(system, sharpness=0.8)
    drawn = shapes.drawn(vectors(shapes, 200_000), torch.Generator().manual_seed(1))
    source = torch.Generator().manual_seed(2)
    draws = 1.3 * torch.randn(200_000, shapes.dim, dtype=torch.float64, generator=source)
    for number, support in enumerate(shapes.supports):
        if hasattr(support, "low"):
            draws[:, number].abs_()
    weight = (-shapes.energy(draws) + (draws / 1.3).square().sum(dim=1) / 2).softmax(dim=0)
    for power in (1, 2):
        expected = (weight[:, None] * draws**power).sum(dim=0)
        torch.testing.assert_close((drawn**power).mean(dim=0), expected, rtol=0, atol=0.03)


def test_orders_are_as_likely_as_told():
    """The first particle is mostly nearest to all, the next farthest, the third near that."""
    shapes = ParticleShapes(DoubleWell(), sharpness=20.0)
    drawn = shapes.drawn(vectors(shapes, 1000), torch.Generator().manual_seed(1))
    positions = shapes.positions(drawn)
    total = torch.cdist(positions, positions).sum(dim=2)
    assert float((total.argmin(dim=1) == 0).double().mean()) > 0.9
    assert float((total.argmax(dim=1) == 1).double().mean()) > 0.9
    to_second = (positions[:, 2:] - positions[:, 1:2]).norm(dim=2)
    assert float((to_second[:, 0] < to_second[:, 1]).double().mean()) > 0.8


WRONG = {
    "sharpness": {"sharpness": -1.0},
    "do not fill": {"system": DoubleWell(3, 3)},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers_are_refused(name):
    with pytest.raises(ConfigurationError, match=name):
        ParticleShapes(**{"system": DoubleWell(), **WRONG[name]})
