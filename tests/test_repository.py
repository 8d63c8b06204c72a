"""The files around the package: workflow and versions."""

import os
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def test_every_dependency_has_a_tested_version_that_it_allows():
    tested = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        tested[name.lower().replace("_", "-")] = version
    for text in requires("tarflow") or []:
        requirement = Requirement(text)
        if requirement.name in ("tarflow", "flash-attn"):  # itself; needs a CUDA compiler
            continue
        assert requirement.specifier.contains(tested[requirement.name.lower()]), text


@pytest.mark.parametrize("name", [".github/workflows/ci.yml", ".pre-commit-config.yaml"])
def test_workflow_files_are_valid_and_run_what_exists(name):
    content = yaml.safe_load((ROOT / name).read_text())
    if "jobs" in content:
        for job in content["jobs"].values():
            [*_, last] = job["steps"]
            assert os.access(ROOT / last["run"], os.X_OK)
    else:
        assert all(hook["entry"].startswith(".venv/bin/") for hook in content["repos"][0]["hooks"])


def test_slow_tests_run_every_night():
    content = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert content[True]["schedule"]  # YAML takes the key `on` for a truth value
    [*_, last] = content["jobs"]["nightly"]["steps"]
    assert "-m slow" in (ROOT / last["run"]).read_text()
