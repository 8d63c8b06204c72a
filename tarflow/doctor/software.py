"""Checks of what is installed: versions that import, and a compiler that compiles."""

import importlib
import os
import platform
import shutil
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tarflow.doctor.findings import Finding, State
from tarflow.nn.probes import first_lines

NEEDED = {
    "torchvision": "torchvision",
    "lightning": "lightning",
    "hydra-core": "hydra",
    "scikit-learn": "sklearn",
    "safetensors": "safetensors",
}
"""What training imports besides torch, by package: module."""

OPTIONAL = ("triton", "flash-attn", "tensorboard", "wandb")


def find_versions() -> list[Finding]:
    """Tell versions; what training needs has to import too."""
    system = f"Python {platform.python_version()} on {platform.platform()}, {sys.prefix}"
    cuda, cudnn = torch.version.cuda, torch.backends.cudnn.version()
    built = f"CUDA {cuda}, cuDNN {cudnn}" if cuda else "no CUDA"
    return [
        Finding("versions", "tarflow", State.NOTE, f"{installed('tarflow')}; {system}"),
        Finding("versions", "torch", State.GOOD, f"{torch.__version__} ({built})"),
        *(find_package(name, module) for name, module in NEEDED.items()),
        *(Finding("versions", name, State.NOTE, installed(name)) for name in OPTIONAL),
    ]


def find_package(name: str, module: str) -> Finding:
    """Tell a package's version, if it can be imported.

    A build of torchvision for another torch is installed well, and fails here.
    """
    try:
        importlib.import_module(module)
    except Exception as error:
        text = f"{installed(name)}, cannot be imported: {first_lines(error)}"
        return Finding("versions", name, State.BROKEN, text)
    return Finding("versions", name, State.GOOD, installed(name))


def installed(name: str) -> str:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def find_compiler() -> Finding:
    """Tell the C compiler with which Triton and inductor build what torch.compile asks for."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header, state = Path(sysconfig.get_path("include"), "Python.h"), State.WARNING
    if compiler is None or shutil.which(compiler) is None:
        text = f"there is no {compiler or 'gcc or clang'}: install one for torch.compile"
    elif not header.is_file():
        text = f"{compiler}; {header} is missing: install Python's headers for torch.compile"
    else:
        text, state = f"{compiler}, {header}", State.GOOD
    return Finding("compiling", "C compiler", state, text)


def find_compilation(device: torch.device) -> Finding:
    """Compile a function for a device, and run it."""
    x = torch.linspace(-1, 1, 1000, device=device)
    name = f"torch.compile on {device}"
    try:
        compiled = torch.compile(_gated)(x)
        torch.testing.assert_close(compiled, _gated(x))
    except Exception as error:
        return Finding("compiling", name, State.WARNING, first_lines(error))
    return Finding("compiling", name, State.GOOD, "works")


def _gated(x: torch.Tensor) -> torch.Tensor:
    """Something to compile."""
    return torch.sin(x) * torch.sigmoid(x) + 1
