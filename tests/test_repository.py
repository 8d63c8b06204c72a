"""The files around the package: container, workflow, versions."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

from tarflow import GaussianNoise, TarFlow
from tests.models import randomized

ROOT = Path(__file__).parents[1]


def test_dockerfile_passes_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    command = [str(hadolint if hadolint.exists() else shutil.which("hadolint"))]
    finished = subprocess.run(
        [*command, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_dockerfile_copies_what_exists_and_the_build_needs():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}
    assert all((ROOT / source).exists() for source in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "tarflow", "conf"} <= copied


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
        [*_, last] = content["jobs"]["test"]["steps"]
        assert (ROOT / last["run"]).is_file()
    else:
        assert all(hook["entry"].startswith(".venv/bin/") for hook in content["repos"][0]["hooks"])


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    flow = TarFlow(8, 2, 1, 2, 1, 64, num_classes=10, noise=GaussianNoise(17, 0.1))
    randomized(flow).save_pretrained("outputs/digits_samples/seed_0/pretrained")
    blocks = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = "\n".join(blocks)
    scope = {}
    exec(code, scope)
    assert scope["log_p"].shape == (10,)
    assert scope["clean"].shape == (10, 1, 8, 8)
