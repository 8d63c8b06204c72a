"""Solvers, against plain loops and their orders of convergence."""

import math
from itertools import pairwise

import pytest
import torch

from tarflow import Euler, Heun


def velocity(x, t):
    """Of dx/dt = x cos t, whose solution is x(0) = x(1) exp(-sin 1)."""
    return x * math.cos(t)


def errors(solver, numbers=(16, 32, 64)):
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    exact = x * math.exp(-math.sin(1))
    return [(solver(velocity, x, n) - exact).abs().max().item() for n in numbers]


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 2)])
def test_the_order_of_convergence(solver, order):
    found = errors(solver)
    for coarse, fine in pairwise(found):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_euler_is_a_plain_loop(steps):
    x = start = torch.randn(3, 2, dtype=torch.float64)
    for k in range(steps):
        x = x - velocity(x, 1 - k / steps) / steps
    torch.testing.assert_close(Euler()(velocity, start, steps), x)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_heun_is_a_plain_loop(steps):
    x = start = torch.randn(3, 2, dtype=torch.float64)
    for k in range(steps):
        here, there = 1 - k / steps, 1 - (k + 1) / steps
        guess = x - velocity(x, here) / steps
        x = x - (velocity(x, here) + velocity(guess, there)) / (2 * steps)
    torch.testing.assert_close(Heun()(velocity, start, steps), x)


@pytest.mark.parametrize("solver", [Euler(), Heun()])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_straight_path_takes_one_step_and_passes_are_counted(solver, steps):
    asked = []

    def constant(x, t):
        asked.append(t)
        return torch.ones_like(x)

    torch.testing.assert_close(solver(constant, torch.zeros(2), steps), -torch.ones(2))
    assert len(asked) == steps * solver.passes
    assert asked[0] == 1.0
    assert min(asked) == (0.0 if solver.passes == 2 else 1 / steps)


def test_the_start_is_untouched():
    x = torch.ones(2)
    Heun()(velocity, x, 2)
    assert torch.equal(x, torch.ones(2))
