"""The Docker image: what it copies, versions that go together, and its steps in a clean root."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.clean_root import Root, build, debootstrap
from tests.dockerfile import Dockerfile

ROOT = Path(__file__).parents[1]
FILE = Dockerfile.read(ROOT / "Dockerfile")

SUITE, PYTHON = "trixie", "3.13"
"""A Debian release near the image's Ubuntu, and its Python."""

ANYONE = "12345:0"
"""A user without a name or a home."""

TWO_STEPS = ("experiment=digits_samples", "trainer.max_steps=2", "schedule.warmup_steps=1")


def copies(stage: int) -> list[tuple[str | None, list[str]]]:
    """What a stage copies: from which other stage, and what."""
    found = []
    for text in FILE.stages[stage].values("COPY"):
        *sources, _ = text.split()
        origin = sources.pop(0).removeprefix("--from=") if text.startswith("--from=") else None
        found.append((origin, sources))
    return found


def test_it_passes_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    command = [str(hadolint if hadolint.exists() else shutil.which("hadolint"))]
    finished = subprocess.run(
        [*command, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_it_copies_what_exists_and_what_the_wheel_needs():
    from_here = {
        source
        for stage in range(len(FILE.stages))
        for origin, sources in copies(stage)
        if origin is None
        for source in sources
    }
    assert all((ROOT / source).exists() for source in from_here)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert needed | {*wheel["packages"], *wheel["force-include"]} <= from_here
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert kept == from_here


def test_it_copies_from_stages_what_they_made():
    made = {"build": FILE.stages[0].values("RUN")}
    for origin, sources in copies(1):
        if origin is not None:
            for source in sources:
                assert any(source in command for command in made[origin])


def test_its_versions_are_those_that_the_package_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    flash = project["optional-dependencies"]["flash"]
    allowed = {r.name: r.specifier for r in map(Requirement, project["dependencies"] + flash)}
    for name in ("torch", "torchvision", "flash-attn"):
        version = FILE.arguments[f"{name.upper().replace('-', '_')}_VERSION"]
        assert allowed[name].contains(version), name
    python = Requirement(f"python{project['requires-python']}").specifier
    assert python.contains(FILE.arguments["PYTHON_VERSION"])


def test_its_torch_is_one_that_flash_attn_compiles_against():
    """flash-attn 2.8 compiles as C++17; the headers of torch 2.14 are C++20."""
    if Version(FILE.arguments["FLASH_ATTN_VERSION"]) < Version("2.9"):
        assert Version(FILE.arguments["TORCH_VERSION"]) < Version("2.14")


def test_its_torchvision_is_the_one_for_its_torch():
    """torchvision 0.N + 15 is built for torch 2.N, and for no other."""
    torch, torchvision = (
        Version(FILE.arguments[name]) for name in ("TORCH_VERSION", "TORCHVISION_VERSION")
    )
    assert torchvision.minor == torch.minor + 15


def test_both_stages_have_one_distribution_so_that_the_environment_moves():
    build_image, runtime_image = (stage.base for stage in FILE.stages)
    release = FILE.arguments["UBUNTU_VERSION"]
    assert build_image.endswith(f"-devel-ubuntu{release}")
    assert runtime_image == f"ubuntu:{release}"


def test_it_runs_as_a_number_and_its_health_is_the_doctors():
    runtime = FILE.stages[-1]
    [user], [entry], [health] = (runtime.values(k) for k in ("USER", "ENTRYPOINT", "HEALTHCHECK"))
    assert user.isdecimal()
    assert int(user) > 0
    assert json.loads(entry) == ["tarflow"]
    assert json.loads(health[health.index("[") :])[:2] == ["tarflow", "doctor"]


def test_build_arguments_replace_versions_and_what_is_made_of_them():
    file = Dockerfile.read(ROOT / "Dockerfile", {"UBUNTU_VERSION": "26.04"})
    assert file.stages[1].base == "ubuntu:26.04"
    assert file.arguments["BUILD_IMAGE"].endswith("ubuntu26.04")


def test_the_batch_files_are_where_the_image_has_them():
    [scripts] = [sources for origin, sources in copies(1) if origin is None]
    assert any(fnmatch.fnmatch("scripts/train.py", f"{source}/*") for source in scripts)


STUB = r'''
import ctypes
ctypes.CDLL("libibverbs.so.1")  # NCCL looks for it in the same way
from triton.runtime.build import compile_module_from_src
source = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "stub"};
PyMODINIT_FUNC PyInit_stub(void) { return PyModule_Create(&module); }
"""
print(compile_module_from_src(src=source, name="stub"))
'''
"""What Triton does before it launches a kernel, as far as it needs no GPU."""


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Iterator[Root]:
    """The runtime stage, without flash-attn, which needs CUDA's compiler."""
    if os.getuid() != 0 or not all(map(shutil.which, ("debootstrap", "unshare", "chroot"))):
        pytest.skip("needs root, debootstrap, unshare and chroot")
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs the right to mount")
    folder = tmp_path_factory.mktemp("image")
    replaced = {"FLASH_ATTN_VERSION": "", "PYTHON_VERSION": PYTHON}
    try:
        base = debootstrap(folder / "base", SUITE)
        file = Dockerfile.read(ROOT / "Dockerfile", replaced)
        yield build(file, base, ROOT, folder)["runtime"]
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
def test_anyone_can_train_in_a_clean_root(image, read_only):
    place = "/tmp" if read_only else "/data"  # all that is writable of a read-only one
    doctor = image.run(["tarflow", "doctor", f"directory={place}"], ANYONE, read_only)
    assert doctor.returncode == 0, doctor.stdout
    assert "training can work here\n" in doctor.stdout  # and no warnings
    command = ["tarflow", "train", *TWO_STEPS, f"run_dir={place}/run"]
    training = image.run(command, ANYONE, read_only)
    assert training.returncode == 0, training.stdout
    assert "the trained model is in" in training.stdout


@pytest.mark.slow
def test_the_script_for_torchrun_runs_in_a_clean_root(image):
    command = ["torchrun", "--nproc-per-node=1", "/opt/tarflow/scripts/train.py", *TWO_STEPS]
    training = image.run([*command, "run_dir=/data/torchrun"], ANYONE)
    assert training.returncode == 0, training.stdout


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
def test_triton_compiles_and_infiniband_loads_for_anyone(image, read_only):
    done = image.run(["python", "-c", STUB], ANYONE, read_only)
    assert done.returncode == 0, done.stdout
    assert "<module 'stub' from '/tmp/" in done.stdout


@pytest.mark.slow
def test_an_output_folder_that_cannot_be_written_is_not_healthy(image):
    health = ["tarflow", "doctor", "quick=true"]
    assert image.run(health, ANYONE).returncode == 0
    assert image.run(health, ANYONE, read_only=True).returncode == 1
