"""Two processes do in every tiny scenario what one does, whatever is shared between them."""

import os
import re
import socket

import pytest
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from tests import fresh
from tests.test_training.scenarios import STRATEGIES, everything, shared


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def environment_of(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of some processes on this machine."""
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "pair",
    }
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count))
    return [{**os.environ, **common, **each} for each in ranks]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict]:
    """The scenarios in two processes, strategy after strategy: what each of them found."""
    folder = tmp_path_factory.mktemp("pair")
    files = [folder / f"{rank}.pt" for rank in range(2)]
    told = zip(files, environment_of(2), strict=True)
    processes = [fresh.start(shared, file, environment=each) for file, each in told]
    finished = [process.finish() for process in processes]
    assert [each.returncode for each in finished] == [0, 0], finished
    return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """The scenarios in one process."""
    return everything(tmp_path_factory.mktemp("alone"), dict)


@pytest.fixture(scope="module", params=STRATEGIES)
def two(request, pair) -> list[dict]:
    """The scenarios in two processes that share the work by a strategy."""
    return [found[request.param] for found in pair]


def test_two_processes_multiply_in_bfloat16_as_one_does_and_keep_float32(two, alone):
    for found in two:
        for name in ("losses", "validation"):
            expected = alone["bfloat16"][name]
            assert found["bfloat16"][name] == pytest.approx(expected, abs=1e-4)
    for state in (two[0]["bfloat16"]["weights"], *two[0]["bfloat16"]["averages"].values()):
        assert {value.dtype for value in state.values()} == {torch.float32}


def test_divided_matrices_travel_in_bfloat16_and_nothing_else_does(two, alone, request):
    kept = ["bias torch.float32", "weight torch.float32"]
    assert alone["within"] == kept
    divided = request.node.callspec.params["two"] == "fsdp2"
    if divided and hasattr(MixedPrecisionPolicy, "param_dtype_override_fn"):  # since torch 2.15
        kept = ["bias torch.float32", "weight torch.bfloat16", "weight torch.float32"]
    for found in two:
        assert found["within"] == kept


SAME = ("validation", "overflow", "gradient", "volume", "resumed", "tied", "adaptive")


@pytest.mark.parametrize("scenario", SAME)
def test_two_processes_do_what_one_does(two, alone, scenario):
    expected = alone[scenario]
    assert len(expected["losses"]) == len(expected["validation"]) > 1
    for found in two:
        assert found[scenario]["said"] == expected["said"]
        for name in ("losses", "validation", "skipped"):
            assert found[scenario][name] == pytest.approx(expected[name], abs=1e-5)
    for name in ("weights", "averages"):
        torch.testing.assert_close(two[0][scenario][name], expected[name], rtol=0, atol=1e-5)
    assert two[1][scenario]["averages"] == {0.5: {}, 0.9: {}}  # the memory of one is enough


def test_a_resumed_run_is_one_that_never_stopped(two, alone):
    for found in (*two, alone):
        straight, resumed = found["validation"], found["resumed"]
        assert resumed["losses"] == {step: straight["losses"][step] for step in (3, 4)}
        for name in ("weights", "averages"):
            torch.testing.assert_close(resumed[name], straight[name], rtol=0, atol=0)


def test_a_step_that_is_not_finite_in_one_process_changes_nothing(two, alone):
    message = "the step after 2 is not finite (loss: the output of transform 3 is not finite)"
    for found in (*two, alone):
        assert found["overflow"]["losses"][3] == found["volume"]["losses"][3] == torch.inf
        assert found["overflow"]["said"] == [f"{message}: skipped, 1 in all"]
        before, after = found["volume"]["variances"][1:3]
        assert torch.equal(before, after)
        assert not torch.equal(found["volume"]["variances"][3], after)


def test_a_gradient_that_is_not_finite_in_one_process_changes_nothing(two, alone):
    for found in (*two, alone):
        message = "the step after 2 is not finite (a gradient): skipped, 1 in all"
        assert found["gradient"]["said"] == [message]


def test_a_signal_to_one_process_ends_all_at_the_same_step(two, alone):
    for found in two:
        assert found["told_0"] == 3
        assert found["told_1000"] == 4  # as nobody asks before the last step
    assert alone["told_0"] == alone["told_1000"] == 3


def test_a_run_that_an_error_ended_goes_on_from_its_last_step(two, alone, request):
    # Where weights are divided, all processes would have to write, and one may wait elsewhere.
    divided = request.node.callspec.params["two"] == "fsdp2"
    assert alone["broken"]
    assert alone["after_broken"].keys() == {3, 4}
    for found in two:
        assert found["broken"] != divided
        if not divided:
            assert found["after_broken"] == pytest.approx(alone["after_broken"], abs=1e-5)


def test_a_label_out_of_range_in_one_process_is_named_by_all(two, alone):
    message = (
        "ContextError: labels go from . to 5, but this model knows 0 ... 2, and -1 for no class"
    )
    for found in (*two, alone):
        assert re.fullmatch(message, found["context"])
