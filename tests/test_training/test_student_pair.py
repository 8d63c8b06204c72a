"""Two processes distil as one does, by every method."""

import math

import pytest
import torch

from tests import fresh
from tests.test_training.distilling import LAST, METHODS, distill, together
from tests.test_training.test_pairs import environment_of

pytestmark = pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict]:
    """All methods in two processes: what each of them found."""
    folder = tmp_path_factory.mktemp("together")
    told = environment_of(2)
    processes = [fresh.start(together, folder, environment=each) for each in told]
    finished = [process.finish() for process in processes]
    assert [each.returncode for each in finished] == [0, 0], finished
    return [torch.load(folder / f"found_{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_do_what_one_does(pair, method, tmp_path):
    alone = distill(tmp_path, method, 0, LAST)
    for found in pair:
        for name in ("losses", "validation"):
            assert all(map(math.isfinite, alone[name]))
            assert found[method][name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5)
    for name in ("state_dict", "averaging"):
        torch.testing.assert_close(pair[0][method][name], alone[name], rtol=0, atol=1e-4)
