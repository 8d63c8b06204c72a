"""Densities in the plane: they integrate to one, and samples are theirs."""

import math

import pytest
import torch

from tarflow import ConfigurationError
from tarflow.estimation.planar import Checkerboard, Moons, NormalMixture, Rings

DENSITIES = [Moons(0.2), Checkerboard(), Rings((0.6, 1.4), 0.15), NormalMixture(3, 1.5, 0.3)]


@pytest.mark.parametrize("density", DENSITIES, ids=repr)
def test_a_density_is_that_of_its_samples(density):
    """Cell by cell: the share of samples, and the integral by midpoints."""
    cells, fine = 24, 16
    side = (torch.arange(cells * fine, dtype=torch.float64) + 0.5) / (cells * fine) * 6 - 3
    grid = torch.cartesian_prod(side, side)
    mass = density.log_prob(grid).exp() * (6 / (cells * fine)) ** 2
    blocks = mass.reshape(cells, fine, cells, fine).sum(dim=(1, 3))
    assert float(blocks.sum()) == pytest.approx(1, abs=5e-3)
    x = density.sample(200_000, torch.Generator().manual_seed(0))
    assert x.dtype == torch.float64
    found, _ = torch.histogramdd(x, bins=[cells, cells], range=[-3.0, 3.0, -3.0, 3.0])
    gap = (found / len(x) - blocks).abs()
    assert float(gap.max()) < 5 * math.sqrt(float(blocks.max()) / len(x)) + 2e-4
    assert float(gap.sum()) < 0.05


@pytest.mark.parametrize(
    "make",
    [lambda: Moons(0.0), lambda: Rings(()), lambda: Rings((1.0, -1.0)), lambda: NormalMixture(0)],
)
def test_what_is_no_density_is_refused(make):
    with pytest.raises(ConfigurationError):
        make()
