"""Runs the commands that pages show, for real but small; refuses those that it does not know."""

import importlib
import re
import runpy
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from tarflow.cli import COMMANDS, PLAIN, run_command
from tests import composing

ROOT = Path(__file__).parents[1]
AT_HAND = ("digits", "folder", "photographs", "latents", "table")
"""Data that the tests have; random bytes take the place of others in training."""

SMALL = {
    "evaluate": {"device": "cpu"},
    "sample": {"batch_size": 4, "device": "cpu"},
    "sweep-guidance": {"device": "cpu"},
    "calibrate": {"batch_size": 4, "repetitions": 1, "windows": "[4]", "device": "cpu"},
    "compress": {"num_images": 40, "num_samples": 2, "repetitions": 1, "device": "cpu"},
    "prepare": {"num_workers": 1},
}
"""What each command is given instead of what the page says, so that it ends soon."""

STUDIES = (
    *("ablate", "compare-samplers", "compare-tokenizers"),
    *("compare-compression", "compare-densities"),
)
"""Commands that take hours."""

FEW_SAMPLES = {
    "metrics.num_samples": 20,
    "metrics.batch_size": 20,
    "metrics.seeds": "[0]",
    "metrics.num_reference": 40,
}
FACTOR = 50
"""A page draws so many times the samples that its test does."""


class Wrong(AssertionError):
    """A command on a page does not work."""


def run(words: list[str]) -> None:
    """Run a command in the current folder."""
    environment = re.compile(r"[A-Z_]+=.*")
    while words and environment.fullmatch(words[0]):
        words = words[1:]
    runner = RUNNERS.get(words[0]) if words else None
    if words and runner is None:
        raise Wrong(f"nothing is known of the command {words[0]!r}")
    if runner:
        runner([word for word in words[1:] if word != "..."])


def tarflow(words: list[str]) -> None:
    """Compose the configuration as the page has it; then run the command, shrunken."""
    name, *arguments = words
    config = composed(name, arguments)
    small = shrink(name, arguments, config)
    if small is None:
        return
    GlobalHydra.instance().clear()
    # Tests check types more strictly than users meet them: 1 is no float.
    small = [re.sub(r"^(guidance|temperature)=(\d+)$", r"\1=\2.0", word) for word in small]
    try:
        run_command(name, small)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise Wrong(f"tarflow {name} {' '.join(small)}: {end.code}") from end


def composed(name: str, arguments: list[str]) -> DictConfig | None:
    """The configuration of a command, which needs every key and choice to exist."""
    if name not in COMMANDS:
        raise Wrong(f"there is no command tarflow {name}")
    if name in PLAIN:
        return None
    config = composing.composed(name, *arguments, with_hydra=True)
    OmegaConf.resolve(config.get("metrics") or config)
    return config


def shrink(name: str, arguments: list[str], config: DictConfig | None) -> list[str] | None:
    """What to run instead; None where composing is all that can be done."""
    if name == "doctor":
        return [*(word for word in arguments if "directory" not in word), "quick=true"]
    if config is None:
        return arguments
    data = config.hydra.runtime.choices.get("data")
    if name in composing.SHRINK:
        return small_training(name, arguments, config, data)
    if name in STUDIES or (name == "prepare" and data not in AT_HAND):
        return None  # minutes of training; data sets of gigabytes
    small = dict(SMALL[name])
    if name == "sample":
        small["num_samples"] = max(2, config.num_samples // FACTOR)
        arguments = [word for word in arguments if word != "compile=true"]
    if any(key_of(word) == "steps" for word in arguments):
        small.pop("windows", None)  # of flows; students take steps
    if "metrics=samples" in arguments or name == "sweep-guidance":
        small |= FEW_SAMPLES
    return replaced(arguments, small)


def small_training(name: str, arguments: list[str], config: DictConfig, data: str) -> list[str]:
    """Two steps with `trainer=smoke`, which must have the last word on what it sets."""
    taken = {"trainer", *leaves(composing.shrunk(name))}
    if "trainer=smoke" in arguments and data in AT_HAND:
        return arguments
    kept = [word for word in arguments if key_of(word) not in taken]
    [grid] = (key for key in config.callbacks if key.endswith("_grid"))
    kept += ["trainer=smoke", f"callbacks.{grid}.every_n_steps=3"]  # none: they take long
    if data in AT_HAND:
        return kept
    size = config.data.data.get("image_size", 32)
    kept = [word for word in kept if not word.startswith("data")]
    stand_in = ["data=random", f"data.data.image_size={size}", "data.data.num_train=16"]
    return [*kept, *stand_in, "data.data.num_test=4"]


def leaves(section: DictConfig, prefix: str = "") -> Iterator[str]:
    """The full names of all values in a section."""
    for key in section:
        value = section._get_node(key)
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def replaced(arguments: list[str], values: dict) -> list[str]:
    """Arguments with some values in place of their own."""
    kept = [word for word in arguments if key_of(word) not in values]
    return [*kept, *(f"{key}={value}" for key, value in values.items())]


def key_of(word: str) -> str:
    """What an argument sets."""
    return word.partition("=")[0].lstrip("+~")


def launched(words: list[str]) -> None:
    """Compose what a launcher, a batch system or a container is to run; its files must exist."""
    for index, word in enumerate(words):
        following = words[index + 1 :]
        if word.endswith((".py", ".sbatch")):
            exists(word.removeprefix("/opt/tarflow/"))
            composed("train", following)
            return
        if word == "tarflow" and following and following[0] in COMMANDS:
            composed(following[0], following[1:])
            return
    raise Wrong(f"no command of tarflow in {' '.join(words)}")


def exists(name: str) -> Path:
    """A file of the checkout, or of the current folder."""
    for folder in (ROOT, Path.cwd()):
        if (folder / name).exists():
            return folder / name
    raise Wrong(f"there is no file {name}")


def python(words: list[str]) -> None:
    """Run a script that draws; have a benchmark read its options."""
    path, *arguments = words
    exists(path)
    if path.startswith("docs/pictures/"):
        runpy.run_path(str(ROOT / path))["main"](*arguments, images=Path.cwd())
    elif path.startswith("benchmarks/"):
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        if arguments or hasattr(module, "read_options"):
            module.read_options(arguments)
    else:
        launched(words)


def make(words: list[str]) -> None:
    """Ask make what it would do."""
    done = subprocess.run(
        ["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Wrong(done.stderr)


def pip(words: list[str]) -> None:
    """Check that the extras and files exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if words[0] != "install":
        raise Wrong(f"pip {words[0]} is not how anything here is installed")
    for flag, value in pairwise(words):
        if flag in ("-c", "--constraint", "-r"):
            exists(value)
    for listed in re.findall(r"\[(.*?)\]", " ".join(words)):
        for extra in listed.split(","):
            if extra not in project["optional-dependencies"]:
                raise Wrong(f"there is no extra {extra}")


def docker(words: list[str]) -> None:
    """Check what an image is built with, or what is run in it."""
    if words[0] == "run":
        launched(words)
    elif words[0] == "build":
        text = exists("Dockerfile").read_text()
        for given in (word for flag, word in pairwise(words) if "-arg" in flag):
            if not re.search(rf"^ARG {key_of(given)}\b", text, re.MULTILINE):
                raise Wrong(f"the Dockerfile has no argument {key_of(given)}")
    elif words[0] != "save":
        raise Wrong(f"docker {words[0]} is not known")


def apptainer(words: list[str]) -> None:
    """Check what is run in an image."""
    if words[0] == "exec":
        launched(words)
    elif words[0] != "build":
        raise Wrong(f"apptainer {words[0]} is not known")


def nothing(words: list[str]) -> None:
    """Leave a shell's own command to the shell."""


def torchrun(words: list[str]) -> None:
    """Compose what is launched; `-m tarflow` is the command."""
    launched(words)


RUNNERS = {
    "tarflow": tarflow,
    "python": python,
    "make": make,
    "pip": pip,
    "docker": docker,
    "apptainer": apptainer,
    "torchrun": torchrun,
    "srun": launched,
    "sbatch": launched,
    "mkdir": nothing,
    "export": nothing,
}
