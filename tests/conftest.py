"""Fixtures that several test files share."""

import os

import pytest
import torch

from tarflow import TarFlow

from .models import tiny_flow

# Programs of their own: run without the hook that checks types, as users run the package.
collect_ignore_glob = ["fuzzing/*", "extensions/*"]

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread for each
    os.environ["OMP_NUM_THREADS"] = "1"  # of the programs that tests start
    torch.set_num_threads(1)


LONG = ("test_fuzz.py", "test_processes.py", "test_pairs.py", "test_cli.py", "test_docs.py")
"""Files that take long and that one process has to run: they come first, or all wait for one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the others stay in their order."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests found and want to be seen."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Start every test from the same state of torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture
def flow() -> TarFlow:
    """A flow over 2 x 4 x 4 images with three classes, in float64."""
    return tiny_flow(num_classes=3).double()


@pytest.fixture
def unconditional() -> TarFlow:
    """A flow over 2 x 4 x 4 images without classes, in float64."""
    return tiny_flow().double()


@pytest.fixture
def x() -> torch.Tensor:
    """Four images for these flows."""
    return torch.randn(4, 2, 4, 4, dtype=torch.float64)


@pytest.fixture
def z() -> torch.Tensor:
    """Noise of four such images."""
    return torch.randn(4, 4, 8, dtype=torch.float64)


@pytest.fixture
def y() -> torch.Tensor:
    """Labels of four such images, one of them null."""
    return torch.tensor([0, 2, -1, 1])
