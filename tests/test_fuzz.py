"""Bad inputs of every kind: none crashes, hangs or passes, and every message names its cause.

Each group runs in a process of its own, without the type checks of the tests: users have none.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = (
    *("tensors", "constructors", "checkpoints", "other_checkpoints"),
    *("pictures", "array_files", "configurations"),
)
AT_LEAST = 500

judged: dict[str, list[dict]] = {}
"""The bad inputs of every group, as they were found."""


def judge(group: str) -> list[dict]:
    """Run a group, once."""
    if group not in judged:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzzing", group],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )
        judged[group] = [json.loads(line) for line in done.stdout.splitlines()]
        last = judged[group][-1]["name"] if judged[group] else "nothing"
        assert done.returncode == 0, f"it ended after {last}: {done.stderr}"
    return judged[group]


@pytest.mark.parametrize("group", GROUPS)
def test_every_bad_input_is_refused_with_its_cause(group):
    faults = {each["name"]: each["fault"] for each in judge(group) if each["fault"]}
    assert not faults


def test_the_number_of_bad_inputs(record_property):
    names = {group: [each["name"] for each in judge(group)] for group in GROUPS}
    for group, found in names.items():
        assert len(set(found)) == len(found), group
    counts = {group: len(found) for group, found in names.items()}
    fit = sum(each["accepted"] is True for group in GROUPS for each in judge(group))
    either = sum(each["accepted"] is None for group in GROUPS for each in judge(group))
    total = sum(counts.values()) - fit - either
    listed = ", ".join(f"{count} {group}" for group, count in counts.items())
    less = f"less {fit} fit for use after all and {either} changed at random, some of which are"
    record_property("bad inputs refused", f"{total} ({listed}, {less})")
    assert total >= AT_LEAST
