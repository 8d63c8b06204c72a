"""Systems of particles: energies by loops, and what leaves them as they are."""

import math

import pytest
import torch

from tarflow import ConfigurationError
from tarflow.estimation.particles import DoubleWell, LennardJones, ParticleSystem

SYSTEMS = [
    DoubleWell(slope=0.3, temperature=2.0),
    LennardJones(5, 3, 0.7, depth=1.5, distance=1.2),
]


def draw(system: ParticleSystem, num: int, seed: int = 0) -> torch.Tensor:
    """Vectors from a fixed seed."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(num, system.dim, dtype=torch.float64, generator=generator)


def pair_energy(system: ParticleSystem, distance: float) -> float:
    """That of a pair, from the equations."""
    if isinstance(system, DoubleWell):
        gap = distance - 4
        return 0.3 * gap - 4 * gap**2 + 0.9 * gap**4
    assert isinstance(system, LennardJones)
    return 1.5 * ((1.2 / distance) ** 12 - 2 * (1.2 / distance) ** 6)


@pytest.mark.parametrize("system", SYSTEMS, ids=repr)
def test_energies_are_sums_over_pairs(system):
    x = draw(system, 3)
    for row, found in zip(system.positions(x).tolist(), system.energy(x).tolist(), strict=True):
        total = sum(
            pair_energy(system, math.dist(first, second))
            for index, first in enumerate(row)
            for second in row[:index]
        )
        if isinstance(system, LennardJones):
            total += 0.5 * sum(number**2 for position in row for number in position)
        assert found == pytest.approx(total / system.temperature)


@pytest.mark.parametrize("system", SYSTEMS, ids=repr)
def test_vectors_are_mean_free_positions_in_an_orthonormal_basis(system):
    x = draw(system, 10)
    positions = system.positions(x)
    assert positions.shape == (10, system.num_particles, system.space_dim)
    torch.testing.assert_close(positions.mean(dim=1), torch.zeros_like(positions[:, 0]))
    torch.testing.assert_close(positions.square().sum(dim=(1, 2)), x.square().sum(dim=1))
    torch.testing.assert_close(system.vectors(positions + 3), x)
    first = (positions[:, 0] - positions[:, 1]) / math.sqrt(2)
    torch.testing.assert_close(x[:, : system.space_dim], first)


@pytest.mark.parametrize("system", SYSTEMS, ids=repr)
def test_moved_examples_are_as_likely_and_anywhere(system):
    x = draw(system, 1).expand(20_000, -1)
    moved = system.moved(x, torch.Generator().manual_seed(1))
    energy = system.energy(x)
    torch.testing.assert_close(system.energy(moved), energy)
    each = [system.distances(part)[:5].sort(dim=1).values for part in (x, moved)]
    torch.testing.assert_close(*each)
    positions = system.positions(moved)
    spread = float(x[0].square().sum()) / system.space_dim / system.num_particles
    torch.testing.assert_close(positions.mean(dim=0), 0 * positions[0], rtol=0, atol=0.05)
    squares = positions.square().mean(dim=0)
    torch.testing.assert_close(squares, torch.full_like(squares, spread), rtol=0.05, atol=0)
    volume = torch.linalg.det(positions[:, 1 : 1 + system.space_dim])  # both hands
    assert 0.47 < float((volume > 0).double().mean()) < 0.53


def test_a_pair_is_deepest_where_it_should_be():
    system = LennardJones(2, 3, depth=1.0, spring=0.0)
    distance = torch.linspace(0.9, 2, 1101, dtype=torch.float64)
    x = torch.zeros(1101, 3).double()
    x[:, 0] = distance / math.sqrt(2)
    energy = system.energy(x)
    assert float(energy.min()) == pytest.approx(-1)
    assert float(distance[energy.argmin()]) == pytest.approx(1)


@pytest.mark.parametrize("kind", [DoubleWell, LennardJones])
@pytest.mark.parametrize(
    "wrong",
    [{"num_particles": 1}, {"space_dim": 0}, {"temperature": 0.0}, {"temperature": math.nan}],
    ids=str,
)
def test_wrong_numbers_are_refused(kind, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        kind(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"quartic": 0.0}, {"depth": -1.0}, {"spring": math.inf}, {"distance": 0.0}],
    ids=str,
)
def test_energies_without_a_density_are_refused(wrong):
    kind = DoubleWell if "quartic" in wrong else LennardJones
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        kind(**wrong)
