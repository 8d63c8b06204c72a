"""Values that no key of a command can have."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tarflow import GaussianNoise, Pixels, VelocityStudent
from tarflow.cli import run_command
from tarflow.cli.calibrate import calibrate
from tarflow.cli.command import settings_of
from tarflow.cli.distill import distill
from tarflow.cli.evaluate import evaluate
from tarflow.cli.prepare import prepare
from tarflow.cli.sample import sample
from tarflow.cli.telling import told_plainly
from tarflow.cli.train import train
from tests.composing import composed
from tests.fuzzing.judging import BadInput
from tests.models import tiny_flow

COMMANDS: dict[str, tuple[Callable[[Any], None], tuple[str, ...]]] = {
    "sample": (sample, ("num_samples=2",)),
    "evaluate": (evaluate, ()),
    "calibrate": (calibrate, ("batch_size=1", "repetitions=1")),
    "sample a student": (sample, ("num_samples=2",)),
    "evaluate a student": (evaluate, ("metrics=samples", "metrics.num_samples=4")),
    "calibrate a student": (calibrate, ("batch_size=1", "repetitions=1")),
    "prepare": (prepare, ("data=random", "data.data.num_train=4", "data.data.num_test=4")),
    "train": (train, ("trainer=smoke", "run_dir=run")),
    "distill": (distill, ("trainer=smoke", "run_dir=run", "model.num_layers=1")),
}
WHOLE = (-1, 1.5, "text", [1, 2], {"a": 1}, True, None, float("nan"))
POSITIVE = (0, *WHOLE)
EACH = tuple([1, 2, 3] if value == [1, 2] else value for value in POSITIVE)
"""No number for each of the two transforms of a smoke test."""
REAL = ("text", [0.5], {"a": 1}, float("nan"))
TRUTH = ("maybe", 3, [True], {"a": 1}, 0.5)
TEXT = (3, 1.5, [1], {"a": 1}, True)
TEXT_OR_NOTHING = tuple(TEXT)
SECTION = ("text", 3, [1], True)
STEPS = (0, -1, 1.5, "text", {"a": 1}, True, float("nan"))
WEIGHT = (-1.0, float("inf"), None, True, *REAL)

KEYS: dict[str, dict[str, tuple[Any, ...]]] = {
    "sample": {
        "checkpoint": (*TEXT, None, "nowhere", "/"),
        "num_samples": POSITIVE,
        "label": ("some", 3, -2, 1.5, [], ["a"], [0, 7], [0.5], {"a": 1}, True, None),
        "guidance": (-1.0, float("inf"), None, True, *REAL),
        "temperature": (0, -1, float("inf"), None, *REAL),
        "denoise": TRUTH,
        "seed": ("text", 1.5, None, [1], {"a": 1}, True, float("nan")),
        "batch_size": POSITIVE,
        "dtype": ("float99", "float", 3, [1], {"a": 1}, True, "os.system"),
        "compile": (*TRUTH, None),
        "tolerance": (0, -1, None, *REAL),
        "window": ("text", 1.5, [1], {"a": 1}, None),
        "context": ("text", 3, [1], True, None, {"a": 1}),
        "grid_samples": POSITIVE,
        "columns": tuple(value for value in POSITIVE if value is not None),
        "save_png": (*TRUTH, None),
        "save_npz": (*TRUTH, None),
        "output": TEXT_OR_NOTHING,
        "overwrite": (*TRUTH, None),
        "device": (*TEXT, None, "gpu", "cuda:99", "cpu:x", "meta"),
        "rank": (0, *WHOLE[:-2]),
        "world_size": (1, *WHOLE[:-2]),
        "decoder": SECTION,
        "guidance_rule": (),
        "data": SECTION,
    },
    "evaluate": {
        "checkpoint": (*TEXT, None, "nowhere"),
        "baseline": (*TEXT, "nowhere"),
        "output": TEXT_OR_NOTHING,
        "device": (*TEXT, None, "gpu", "cuda:99"),
        "rank": (0, *WHOLE[:-2]),
        "world_size": (1, *WHOLE[:-2]),
        "metrics": (*SECTION, None),
        "data": (*SECTION, None),
        "metrics.batch_size": POSITIVE,
        "metrics.importance_samples": POSITIVE,
        "metrics.split": ("nothing", 3, None, [1], {"a": 1}),
        "metrics.unit": ("nothing", 3, None, [1], {"a": 1}),
        "metrics.seed": WHOLE[1:],
    },
    "calibrate": {
        "checkpoint": (*TEXT, None, "nowhere"),
        "batch_size": POSITIVE,
        "label": ("some", 3, [], {"a": 1}, 1.5, True, None),
        "guidance": (-1.0, None, True, *REAL),
        "dtype": ("float99", 3, [1], {"a": 1}),
        "tolerance": (0, -1, None, *REAL),
        "windows": ("text", 3, ["a"], [0], [-1], {"a": 1}, None, [1.5]),
        "repetitions": POSITIVE,
        "device": (*TEXT, None, "gpu"),
    },
    "sample a student": {
        "steps": (*STEPS, [1, 2]),
        "guidance": WEIGHT,
        "flow": (*TEXT, "nowhere"),
        "best_of": (2, *POSITIVE),
    },
    "evaluate a student": {"steps": (*STEPS, [0], ["a"], [1, 1]), "guidance": WEIGHT},
    "calibrate a student": {"steps": (*STEPS, [0], ["a"]), "guidance": WEIGHT},
    "prepare": {
        "data": SECTION,
        "format": (*SECTION, None),
        "output": (*TEXT, None),
        "num_workers": (-1, 1.5, "text", [1], {"a": 1}, True),
        "data.data.num_train": POSITIVE,
        "data.data.image_size": POSITIVE,
        "data.data.levels": (1, 257, *WHOLE),
    },
    "train": {
        "name": TEXT[1:],
        "seed": ("text", 1.5, None, [1], {"a": 1}, -1, 2**70),
        "run_dir": (*TEXT, None),
        "resume": ("perhaps", 3, None, [1], True),
        "model": (*SECTION, None),
        "noise": (*SECTION, None),
        "codec": (*SECTION, None),
        "objective": (*SECTION, None),
        "optimizer": SECTION,
        "trainer": (*SECTION, None),
        "callbacks": SECTION,
        "logger": SECTION,
        "data": (*SECTION, None),
        "module": (*SECTION, None),
        "schedule": SECTION,
        "model.patch_size": (3, *EACH),
        "model.num_transforms": POSITIVE,
        "model.num_layers": EACH,
        "model.model_dim": (12, *EACH),
        "model.head_dim": (3, *EACH),
        "model.dropout": (-0.1, 1.5, None, *REAL),
        "model.scale": (*SECTION, None),
        "data.batch_size": (5000, *POSITIVE),
        "data.eval_batch_size": POSITIVE[:-2],
        "data.num_workers": WHOLE,
        "data.device_batch_size": (3, *POSITIVE[:-2]),
        "data.data.validation_fraction": (-0.1, 1, None, *REAL),
        "trainer.max_steps": ("text", None, 1.5, [1], {"a": 1}, True, 0),
        "trainer.accelerator": ("abacus", 3),
        "trainer.devices": (0, "text", -3, 1.5),
        "trainer.precision": ("17-true", "text", [1]),
        "objective.class_dropout": (-0.1, 1.5, None, *REAL),
        "module.max_grad_norm": (-1, *REAL),
        "module.max_skipped_steps": WHOLE,
        "module.compile": TRUTH,
        "module.checkpointed_layers": WHOLE,
        "module.products": ("half", "tf32", 3, None, [1]),
        "optimizer.lr": (-1, None, *REAL),
        "optimizer.betas": ("text", 3, [1], [2, 3], None),
        "optimizer.weight_decay": (-1, None, *REAL),
        "schedule.warmup_steps": WHOLE,
        "schedule.final_lr": (-1, None, *REAL),
        "callbacks.checkpoint.every_n_steps": POSITIVE,
        "callbacks.averaging.decays": ("text", 3, [], [2.0], [-1.0], ["a"], None),
        "callbacks.sample_grid.num_samples": POSITIVE,
        "callbacks.preemption.signals": ("text", 3, ["SIGNONE"], [3], None),
        "callbacks.preemption.seconds": (-1, None, *REAL),
    },
    "distill": {
        "checkpoint": (*TEXT, None, "nowhere", "/"),
        "student": (*TEXT, "nowhere", "pretrained"),
        "data": (*SECTION, None),
        "model": (*SECTION, None),
        "objective": (*SECTION, None),
        "module": (*SECTION, None),
        "trainer": (*SECTION, None),
        "model._target_": ("text", "os.system", "tarflow.TarFlow", 3, None),
        "model.num_layers": POSITIVE,
        "model.model_dim": (12, *POSITIVE),
        "model.head_dim": (3, *POSITIVE),
        "model.patch_size": (3, *POSITIVE),
        "model.num_blocks": (2, *POSITIVE),
        "model.num_classes": (2, *WHOLE),
        "model.dropout": (-0.1, 1.5, None, *REAL),
        "objective.class_dropout": (-0.1, 1.5, None, *REAL),
        "objective.alignment": (-1.0, None, *REAL),
        "objective.jitter": (-1.0, None, *REAL),
        "objective.weights": SECTION,
        "objective.distance": SECTION,
        "objective.pairs": SECTION,
        "callbacks.sample_grid.steps": (2, *WHOLE[:-2]),
        "callbacks.sample_grid.weight": (None, float("inf"), *REAL),
        "callbacks.sample_grid.num_samples": POSITIVE,
    },
}


@cache
def right(name: str) -> DictConfig:
    """A command's configuration, before anything is wrong with it."""
    task, overrides = COMMANDS[name]
    return composed(task.__name__, *overrides)


def give(folder: Path, name: str, key: str, value: Any) -> None:
    """Run a command with one value in place of another."""
    config = right(name).copy()
    with chdir(folder):
        OmegaConf.set_struct(config, False)
        if name in ("sample", "evaluate", "calibrate", "distill"):
            known = {"codec": Pixels(17), "noise": GaussianNoise(0.1)}
            classes = 10 if name == "distill" else 3  # its data has to fit the flow
            flow = tiny_flow(8, 2, 1, num_classes=classes, num_layers=1, **known)
            flow.save_pretrained("pretrained")
            config.checkpoint = "pretrained"
        if name.endswith("a student"):
            sizes = {"num_layers": 1, "model_dim": 16, "head_dim": 8}
            student = VelocityStudent(8, 2, 1, num_classes=10, codec=Pixels(17), **sizes)
            student.save_pretrained("student")
            config.checkpoint = "student"
        if name == "prepare":
            config.output = "prepared"
            config.num_workers = 0
        OmegaConf.update(config, key, value, merge=False)
        with told_plainly():
            task = COMMANDS[name][0]
            task(settings_of(task).of(config))


def bad_inputs() -> Iterator[BadInput]:
    """All of them."""
    for name, keys in KEYS.items():
        for key, values in keys.items():
            last = key.rpartition(".")[2]
            for index, value in enumerate(values):
                yield BadInput(
                    f"{name} {key}={value!r} ({index})",
                    lambda folder, n=name, k=key, v=value: give(folder, n, k, v),
                    (key, last, str(value).strip("[']")),
                )
    yield from typed()


def typed() -> Iterator[BadInput]:
    """What is typed after a command."""
    lines = {
        "sample": (
            "colour=red",
            "num_samples",
            "=3",
            "decoder=magic",
            "data=nothing",
            "[",
            "a=[1",
        ),
        "train": ("experiment=nothing", "optimizer=none", "model.colour=1", "seed=", "--colour"),
        "distill": ("method=magic", "optimizer=none", "model.colour=1", "student", "--colour"),
        "convert": ("size=3", "image_size=x", "noise_std=x", "x"),
        "doctor": ("quick=perhaps", "colour=red", "quick"),
        "prepare": ("format=nothing", "data=none", "output"),
    }
    for name, arguments in lines.items():
        for argument in arguments:

            def attempt(folder: Path, name=name, argument=argument) -> None:
                first = ["weights.pth", "out"] if name == "convert" else []
                with chdir(folder):
                    run_command(name, [*first, argument])

            key, _, value = argument.strip("=-").partition("=")
            needed = f"give {key}=" if value == "none" else key  # none switches a section off
            causes = (argument, value or argument, f"{key} is not", needed)
            yield BadInput(f"tarflow {name} {argument}", attempt, causes)
