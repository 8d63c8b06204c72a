"""The library is light to import, and its modules import one way."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tarflow"

PROGRAM = """
import sys
import {module}

heavy = {{"lightning", "pytorch_lightning", "hydra", "omegaconf", "torchvision", "sklearn"}}
heavy |= {{"vector_quantize_pytorch", "diffusers"}}
print(*sorted(heavy & sys.modules.keys()))
"""

FOUNDATION = {"errors", "arguments", "randomness", "registry"}

BELOW: dict[str, set[str]] = {
    "machine": set(),
    "nn": {"machine"},
    "flows": {"nn", "machine"},
    "tokenizers": {"flows", "nn", "machine"},
    "data": {"tokenizers", "flows", "machine"},
    "sampling": {"tokenizers", "flows", "nn", "machine"},
    "editing": {"flows", "nn", "machine"},
    "students": {"sampling", "flows", "nn", "machine"},
    "training": {
        *("students", "sampling", "editing", "tokenizers", "data", "flows", "nn", "machine"),
    },
    "evaluation": {
        *("students", "sampling", "editing", "tokenizers", "data", "flows", "nn", "machine"),
    },
    "estimation": {"training", "sampling", "flows", "nn", "machine"},
    "compression": {"training", "evaluation", "sampling", "data", "flows", "nn", "machine"},
    "doctor": {"nn", "machine"},
    "ablation": {
        "compression",
        "estimation",
        "training",
        "evaluation",
        "students",
        "sampling",
        "tokenizers",
        "data",
        "flows",
        "nn",
        "machine",
    },
}
"""What a folder may import besides the foundation and itself; the commands may import all."""

OF_FLOWS = {"tarflow.flows.codec", "tarflow.flows.context"}
"""What data knows of flows: how values are stored, and what they are conditioned on."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name; a package by its own."""
    paths = PACKAGE.rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that one names anywhere in it: within functions and for types alone as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports are not used"
            names = [(f"{node.module}.{alias.name}", str(node.module)) for alias in node.names]
        for candidates in names:  # a name of a package may be a module, or stand in its __init__
            found = [each for c in candidates for each in (c, f"{c}.__init__") if each in known]
            yield from found[:1]


def graph() -> dict[str, set[str]]:
    """For every module, those that it imports."""
    known = modules()
    return {name: set(imported(path, known)) - {name} for name, path in known.items()}


def folder(module: str) -> str:
    """The folder that a module lies in; its own name at the top."""
    return module.split(".")[1]


@pytest.mark.parametrize("module", ["tarflow", "tarflow.data"])
def test_importing_loads_no_training_library(module):
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_there_is_no_circle():
    try:
        order = list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")
    assert order.index("tarflow.errors") < order.index("tarflow.flows.flow")


def test_folders_import_one_way():
    wrong = []
    for module, targets in graph().items():
        here = folder(module)
        if here in ("__init__", "__main__", "cli"):
            continue
        for target in targets:
            there = folder(target)
            allowed = there in FOUNDATION or (here not in FOUNDATION and there == here)
            allowed |= there in BELOW.get(here, set())
            if here == "data" and there == "flows":
                allowed = target in OF_FLOWS
            if not allowed:
                wrong.append(f"{module} imports {target}")
    assert not wrong
    assert {folder(module) for module in modules()} >= BELOW.keys()


def test_only_the_commands_know_hydra():
    users = [
        name
        for name, path in modules().items()
        if any(word in path.read_text() for word in ("import hydra", "from hydra", "omegaconf"))
    ]
    assert users
    assert {folder(name) for name in users} == {"cli"}


def test_a_file_name_and_a_class_name_is_used_once():
    files = Counter(path.name for path in modules().values() if path.name != "__init__.py")
    classes = Counter(
        node.name
        for path in modules().values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    twice = [name for name, count in (files + classes).items() if count > 1]
    assert not twice, twice
